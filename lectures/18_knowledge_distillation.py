# %% [markdown]
# # Knowledge distillation
#
# A large network answers well and is too slow; a small one is fast and does not learn as much from the same labels. Can the large one
# teach the small one something that is not in the labels, and how do we know that it did?
#
# **After this lecture you can** read what a teacher says about an image beyond its label, and measure it in bits; explain temperature by
# odds; derive the gradient of soft targets, the factor $T^2$ and the limit of high temperature; name what can be taken from inside a
# teacher and what each loss is blind to; design a control teacher that lacks one thing; write label smoothing as a teacher that knows
# nothing, and say when smoothing a real teacher spoils it; and tell a set-up in which distillation helps from one in which it does not.
#
# **You need** softmax, cross entropy and a training loop. **Time:** about 100 minutes.
#
# **Sources**
#
# - Hinton, Vinyals and Dean, [Distilling the knowledge in a neural network](https://arxiv.org/abs/1503.02531), 2015: sections 2, 2.1, 3.
# - Ba and Caruana, [Do deep nets really need to be deep?](https://arxiv.org/abs/1312.6184), NIPS 2014: learning from logits.
# - Romero et al., [FitNets: hints for thin deep nets](https://arxiv.org/abs/1412.6550), ICLR 2015: section 2.2.
# - Zagoruyko and Komodakis, [Paying more attention to attention](https://arxiv.org/abs/1612.03928), ICLR 2017: section 3.1.
# - Park, Kim, Lu and Cho, [Relational knowledge distillation](https://arxiv.org/abs/1904.05068), CVPR 2019: section 3.2.
# - Szegedy et al., [Rethinking the Inception architecture](https://arxiv.org/abs/1512.00567), CVPR 2016: section 7, label smoothing.
# - Müller, Kornblith and Hinton, [When does label smoothing help?](https://arxiv.org/abs/1906.02629), NeurIPS 2019.
# - Chandrasegaran, Tran, Zhao and Cheung, [Revisiting label smoothing and knowledge distillation
#   compatibility](https://arxiv.org/abs/2206.14532), ICML 2022.
# - Mirzadeh et al., [Improved knowledge distillation via teacher assistant](https://arxiv.org/abs/1902.03393), AAAI 2020: the capacity
#   gap.
# - Control teachers: Furlanello et al., [Born-again neural networks](https://arxiv.org/abs/1805.04770), ICML 2018; Tang et al.,
#   [Understanding and improving knowledge distillation](https://arxiv.org/abs/2002.03532), 2020; Yuan et al., [Revisiting knowledge
#   distillation via label smoothing regularization](https://arxiv.org/abs/1909.11723), CVPR 2020.

# %% tags=["setup"]
import math

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from torch import nn

from course_lib import datasets, measurements, metrics, plots, repro

# %%
full = repro.profile() == "full"  # COURSE_PROFILE=full: wider teachers, trained longer, and more seeds, on a GPU
TEACHER_WIDTH, TEACHER_STEPS = (1024, 3000) if full else (256, 250)
NUM_SEEDS = 20 if full else 5
STUDENT_WIDTH, STUDENT_STEPS = 64, 300
TRANSFER_SIZE = 30  # images that a student sees
device = repro.pick_device() if full else torch.device("cpu")
torch.set_num_threads(1)  # for networks as small as these, two threads wait for each other longer than they work

# %% [markdown]
# ## What a label leaves out
#
# Our teacher reads handwritten digits of 8 × 8 pixels. It has two hidden layers of 256 neurons, with dropout, and learns from the 1,078
# training images and their labels in the usual way. A student will come later, and will be trained by the same function: only the loss
# changes.

# %%
def new_network(width, dropout=0.0):
    """Pixels of a digit (N, 1, 8, 8) -> logits (N, 10), by two hidden layers."""
    hidden = [nn.Linear(64, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, width), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width, 10))


def train(network, images, loss_of, num_steps, seed, lr=3e-3):
    """Minimise loss_of(logits, batch), where `batch` are the indices of the images that were drawn; returns the trained network."""
    network = network.to(device).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(num_steps):
        batch = torch.randperm(len(images), generator=generator)[:128].to(device)
        loss = loss_of(network(images[batch]), batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    return network.eval().requires_grad_(False)


def train_teacher(seed, smoothing=0.0):
    repro.seed_all(seed)

    def loss(logits, batch):
        return F.cross_entropy(logits, train_labels[batch], label_smoothing=smoothing)

    return train(new_network(TEACHER_WIDTH, dropout=0.5), train_images, loss, TEACHER_STEPS, seed)


(train_images, train_labels), (images, labels), (test_images, test_labels) = (
    [tensor.to(device) for tensor in datasets.digits(part)] for part in ("train", "validation", "test")
)
teachers = [train_teacher(seed) for seed in range(NUM_SEEDS)]
teacher = teachers[0]
logits = teacher(images)  # (360, 10), of validation images, which it has not learned from
print(f"right on validation images: {metrics.accuracy(logits.argmax(1), labels):.1%}")

# %% [markdown]
# It is right nearly always. So for most images its first choice repeats the label, and the news can only be in the other nine numbers. We
# look at images that the teacher gets right, and sort the images of a class by the teacher's **second** choice.
#
# **Predict first.** Which second choices does a 9 have? A 3? And how large is the probability of a second choice, typically?

# %%
probs = logits.softmax(1)
second = probs.topk(2, dim=1).indices[:, 1]  # (360,)
right = probs.argmax(1) == labels
fig, axes = plt.subplots(4, 4, figsize=(4.6, 5.6))
for row, true in zip(axes, (9, 3, 8, 1)):
    score = torch.stack([torch.where(right & (labels == true) & (second == k), probs[:, k], -1) for k in range(10)])  # (10, 360)
    best, which = score.max(1)  # for each second choice the image in which it is strongest
    for ax, k in zip(row, best.topk(4).indices.tolist()):
        ax.imshow(images[which[k], 0].cpu(), cmap="gray_r")
        ax.set_title(f"{true}, near {k}: {best[k]:.1%}" if best[k] > 0 else "", fontsize=8)
        ax.set_axis_off()
fig.suptitle("One label, several neighbours", x=0.01, ha="left")
plots.show(fig, alt="Nines, threes, eights and ones, each with the wrong class that the teacher finds most likely and its probability.")

# %%
wrong = 1 - probs.gather(1, labels[:, None]).squeeze(1)
print("probability of all wrong classes together, right answers only:")
print(", ".join(f"{share:.0%} of images under {wrong[right].quantile(share):.2g}" for share in (0.25, 0.5, 0.75, 0.95)))
for true in (9, 3, 8, 1):
    counts = second[right & (labels == true)].bincount(minlength=10)
    print(f"second choice of a {true}: " + ", ".join(f"{k} ({counts[k]} times)" for k in counts.argsort(descending=True)[:4].tolist()))

# %% [markdown]
# Each row has one label and several neighbours, and for most of them the eye agrees: one stroke longer or one loop closed, and the digit
# would be another one. Hinton called this **dark knowledge**: it is in the numbers that decide nothing. They are also tiny, apart from
# extreme images like these. Half of the right answers give their nine wrong classes less than 0.2 % together. A student that minimises
# the cross entropy with such an answer would hardly notice the difference to a label.
#
# ## Temperature
#
# The way out is to divide the logits $z_k$ by a **temperature** $T$ before the softmax:
#
# $$p_k = \frac{e^{z_k / T}}{\sum_j e^{z_j / T}}, \qquad \frac{p_k}{p_j} = \Big(e^{z_k - z_j}\Big)^{1/T} .$$
#
# The second formula is the one to remember. The sum cancels, and what is left is the **odds** of two classes: temperature $T$ takes the
# $T$-th root of all odds. The order of the classes stays, their distances shrink.
#
# **Predict first.** Three classes have the odds 10,000 : 100 : 1. What are the odds at $T = 2$, and at $T = 4$? What are the three
# probabilities?

# %%
# NBVAL_CHECK_OUTPUT
z = torch.tensor([math.log(10_000), math.log(100), 0.0], dtype=torch.float64)
for temperature in (0.5, 1, 2, 4, 100):
    p = torch.exp(z / temperature) / torch.exp(z / temperature).sum()
    print(f"T = {temperature:>5}: odds to the last {p[0] / p[2]:12,.2f} : {p[1] / p[2]:8,.2f} : 1, probabilities", *(f"{v:.4f}" for v in p))

# %% [markdown]
# From 100 : 10 : 1 to about 10 : 3 : 1, and the third class has risen from one in ten thousand to 7 %. A low temperature goes the other
# way, towards one class that takes all; a very high one makes all classes equal. For the ten classes of a real image it looks like this.

# %%
hard_to_say = torch.where(right, wrong, 0).argmax().item()  # the least certain right answer
temperatures = torch.logspace(-1, 1.7, 100)
curves = (logits[hard_to_say].cpu() / temperatures[:, None]).softmax(1)  # (100, 10)
fig, (left, ax) = plt.subplots(1, 2, figsize=(7.4, 3.2), width_ratios=[1, 2.6])
left.imshow(images[hard_to_say, 0].cpu(), cmap="gray_r")
left.set_axis_off()
left.set_title(f"a {labels[hard_to_say]}")
for rank, k in enumerate(logits[hard_to_say].argsort(descending=True).tolist()):
    ax.semilogx(temperatures, curves[:, k], color=f"C{rank}" if rank < 4 else "0.7", label=f"class {k}" if rank < 4 else None)
ax.set(xlabel="temperature", ylabel="probability", title="Every class is heard, none overtakes another")
ax.legend()
plots.show(fig, alt="A digit, and its ten probabilities over temperature: the first falls, the second peaks, all meet at a tenth.")

# %% [markdown]
# The student is treated in the same way: while it learns, its logits are divided by the same $T$. When it works, it uses $T = 1$.
#
# ## How much does an answer say beyond the label?
#
# Too cold, and the answer is the label. Too hot, and it is the same for all images. In between it must say most, and we can measure that.
# Let somebody draw one class from the softened answer to an image. You know the label already. How many **bits** does the drawn class
# tell you about *which image* of its class it was? With $\bar p_c$ for the mean answer to the images of class $c$,
#
# $$\text{bits beyond the label} = \text{mean over images of}\ \text{KL}\big(p(\text{image})\,\|\,\bar p_{\text{label}}\big)
# = \text{mean of} \sum_k p_k \log_2 \frac{p_k}{\bar p_k} .$$
#
# This is a conditional mutual information. It is zero for labels, and zero if all images of a class get one and the same answer.
#
# **Predict first.** At which temperature does it peak? And does the teacher say more about images that it was trained on, or about new
# ones?

# %%
def bits_beyond_label(logits, labels, temperature):
    p = (logits / temperature).softmax(1)  # (N, 10)
    bits = 0.0
    for c in labels.unique():
        own = p[labels == c].clamp(min=1e-30)  # 0 log 0 is 0
        bits += (own * (own / own.mean(0)).log2()).sum().item()
    return bits / len(labels)


temperatures = torch.logspace(-0.6, 1.5, 22)
said = {}
for part, x, y in [("training images", train_images, train_labels), ("images it has not seen", images, labels)]:
    said[part] = [[bits_beyond_label(z, y, t) for t in temperatures.tolist()] for z in (network(x) for network in teachers)]
fig, ax = plt.subplots(figsize=(6, 3.4))
for (part, runs), color in zip(said.items(), ("C0", "C1")):
    plots.mean_curve(ax, temperatures, runs, label=part, color=color)
ax.set(xscale="log", xlabel="temperature", ylabel="bits beyond the label", ylim=(0, None))
ax.set_title("A teacher says most at a temperature near 2")
ax.set_ylim(0, 0.27)
ax.set_xticks([0.25, 1, 2, 4, 8, 32], ["0.25", "1", "2", "4", "8", "32"])
ax.minorticks_off()
ax.legend()
plots.show(fig, alt="Bits beyond the label over temperature for training and new images: low when cold, a peak near 2, zero when hot.")
for part, runs in said.items():
    mean = torch.tensor(runs).mean(0)
    print(f"{part}: {mean[6]:.3f} bits at T = {temperatures[6]:.1f}, at most {mean.max():.3f} at T = {temperatures[mean.argmax()]:.1f}")

# %% [markdown]
# On its own training images the teacher at $T = 2$ says half as much again as at $T = 1$. Images that it has not learned from get richer
# answers. Keep that in mind: **which** images a teacher is asked about matters. Keep in mind, too, what we measured: *one* drawn class.
# At a high temperature it says nothing, because all classes are drawn alike. A student does not draw, it sees the exact ten numbers, and
# they still differ from image to image, only faintly. Whether it can use them we will see.
#
# ## What the student descends
#
# Let $z$ be the student's logits, $q = \operatorname{softmax}(z / T)$ its softened answer and $p$ the teacher's. The soft loss is the
# cross entropy $-\sum_k p_k \log q_k$, or the divergence $\text{KL}(p\,\|\,q) = \sum_k p_k \log (p_k / q_k)$. The two differ by the
# teacher's entropy, a number that the student cannot change, so they have the same gradient. To find it, write $\log q_k = z_k / T - \log
# \sum_j e^{z_j / T}$. The derivative of the last term with respect to $z_i$ is $q_i / T$, and so
#
# $$\frac{\partial}{\partial z_i} \Big(-\sum_k p_k \log q_k\Big) = -\frac{p_i}{T} + \sum_k p_k\, \frac{q_i}{T} = \frac{q_i - p_i}{T} .$$
#
# This is equation 2 of Hinton et al. For a label it is the well-known $q_i - y_i$ at $T = 1$.
#
# **Predict first.** The student is sure of class 0. The teacher finds class 0 most likely, class 1 possible, class 2 out of the question.
# In which direction does each of the three logits move? And with the label 0?

# %%
# NBVAL_CHECK_OUTPUT
student_logits = torch.tensor([4.0, 0.0, 0.0], dtype=torch.float64, requires_grad=True)
teacher_logits = torch.tensor([4.0, 2.0, -3.0], dtype=torch.float64)
temperature = 2.0
p, q = (teacher_logits / temperature).softmax(0), (student_logits / temperature).softmax(0)
(by_autograd,) = torch.autograd.grad(-(p * q.log()).sum(), student_logits, retain_graph=True)
by_formula = ((q - p) / temperature).detach()
(of_label,) = torch.autograd.grad(F.cross_entropy(student_logits[None], torch.tensor([0])), student_logits)
print("descent by soft targets:", *(f"{-g:+.4f}" for g in by_autograd), " by the formula:", *(f"{-g:+.4f}" for g in by_formula))
print("descent by the label:   ", *(f"{-g:+.4f}" for g in of_label))

# %% [markdown]
# The label pushes the right class up and both wrong ones down alike, however sure the student is already. The teacher lifts class 1,
# lowers class 2, and takes a little away from class 0: it says that the student is too sure. The components always add up to zero, so a
# constant added to all logits is never learned.
#
# ## Why T squared
#
# Two temperatures hide in the gradient. One is the factor $1 / T$. The other is in $q - p$: hot answers are nearly uniform, hence nearly
# equal. How much smaller does the gradient become? We take real logits, those of the teacher and of a student that has seen 30 labelled
# images, and look at the mean length of the gradient over the validation images.
#
# **Predict first.** From $T = 4$ to $T = 8$: by which factor does it shrink?

# %%
def sees(seed):
    """The images that a student sees: indices of the training set."""
    return torch.randperm(len(train_labels), generator=torch.Generator().manual_seed(100 + seed))[:TRANSFER_SIZE].to(device)


def train_student(seed, loss_of):
    repro.seed_all(200 + seed)  # all students of a seed start with the same weights, and see the same images in the same order
    return train(new_network(STUDENT_WIDTH), train_images[sees(seed)], loss_of, STUDENT_STEPS, seed, lr=3e-3)


def from_labels(seed):
    y = train_labels[sees(seed)]
    return train_student(seed, lambda logits, batch: F.cross_entropy(logits, y[batch]))


hard_students = [from_labels(seed) for seed in range(NUM_SEEDS)]
teacher_logits, student_logits = logits.double().cpu(), hard_students[0](images).double().cpu()  # (360, 10) both
true = labels.cpu()


def gradient(temperature):
    """Of the soft cross entropy, (N, 10)."""
    return ((student_logits / temperature).softmax(1) - (teacher_logits / temperature).softmax(1)) / temperature


temperatures = torch.logspace(0, 2, 50, dtype=torch.float64)
soft = torch.stack([gradient(t).norm(dim=1).mean() for t in temperatures])
hard = (student_logits.softmax(1) - F.one_hot(true, 10)).norm(dim=1).mean()
fig, ax = plt.subplots(figsize=(6, 3.4))
ax.loglog(temperatures, soft, color="C1", label="soft targets")
ax.loglog(temperatures, temperatures**2 * soft, color="C0", label="soft targets, times T²")
ax.axhline(hard, color="0.4", linestyle="--", label="hard labels, T = 1")
ax.loglog(temperatures[25:], 1.7 * soft[25] * (temperatures[25] / temperatures[25:]) ** 2, color="0.7", linewidth=1, label="slope −2")
ax.set(xlabel="temperature", ylabel="mean length of the gradient", title="Without T² the teacher falls silent")
ax.legend(fontsize=8)
plots.show(fig, alt="Gradient length over temperature, both axes logarithmic: soft targets fall with slope −2; with T² they level off.")
for t in (1.0, 2.0, 4.0, 8.0, 16.0, 32.0):
    size = gradient(t).norm(dim=1).mean()
    print(f"T = {t:4.0f}: {size:.4f}, times T² {t**2 * size:6.3f}   (hard labels {hard:.3f})")

# %% [markdown]
# By four. The gradient falls like $1 / T^2$, so the loss is multiplied by $T^2$. Otherwise a change of temperature would also change how
# much the teacher counts beside the label: at $T = 16$ it would have next to nothing to say. With the factor the balance is kept once $T$
# is high. It is not kept at low $T$: from 1 to 4 the pull grows threefold. "Roughly unchanged" are the words of Hinton et al.
#
# ## What a high temperature compares
#
# What is this limit? Let $\delta_k = z_k - v_k$ be the difference between the student's and the teacher's logits. Then $q_k = p_k\,
# e^{\delta_k / T} / \sum_j p_j e^{\delta_j / T}$, and putting this into the divergence gives, with no approximation,
#
# $$T^2\, \text{KL}(p\,\|\,q) = T^2 \Big( \log \sum_k p_k\, e^{\delta_k / T} - \sum_k p_k\, \delta_k / T \Big)
# = \tfrac12 \operatorname{Var}_p(\delta) + O(1 / T) .$$
#
# The last step is the series of the logarithm: its first term cancels, its second is half a **variance**, that of the numbers $\delta_k$
# weighted by $p_k$. So the loss asks how uneven the difference of the logits is, over the classes that the teacher finds likely. At low
# temperature these are few. As $T \to \infty$ all $K$ classes count the same:
#
# $$T^2\, \text{KL}(p\,\|\,q) \;\to\; \frac{1}{2K} \sum_k \Big(\delta_k - \frac1K \sum_j \delta_j\Big)^2 ,$$
#
# half the mean squared difference of the **centred** logits. (Hinton et al. centre both beforehand.) That is close to what Ba and Caruana
# had done before: they trained students by the squared error of logits.
#
# **Predict first.** At which temperature is the limit reached within 1 %: 10, 100 or 1,000? And why is one column below in float32?

# %%
def scaled_divergence(teacher_logits, student_logits, temperature):
    log_p, log_q = ((z / temperature).log_softmax(1) for z in (teacher_logits, student_logits))
    return temperature**2 * (log_p.exp() * (log_p - log_q)).sum(1)  # (N,)


delta = student_logits - teacher_logits
limit = (delta - delta.mean(1, keepdim=True)).square().sum(1) / (2 * 10)  # (360,)
print("      T    T² KL  / limit   by the exact formula   in float32 / limit   half the variance at T / T² KL")
for t in (1.0, 2.0, 4.0, 10.0, 100.0, 1000.0, 10_000.0):
    loss = scaled_divergence(teacher_logits, student_logits, t)
    p = (teacher_logits / t).softmax(1)
    exact = t**2 * ((p * (delta / t).exp()).sum(1).log() - (p * delta).sum(1) / t)
    variance = (p * delta.square()).sum(1) - (p * delta).sum(1).square()
    single = scaled_divergence(teacher_logits.float(), student_logits.float(), t)
    print(f"{t:7,.0f} {loss.mean():8.3f} {loss.mean() / limit.mean():8.4f} {exact.mean():14.3f} {single.mean() / limit.mean():22.3f}"
          f" {variance.mean() / 2 / loss.mean():21.3f}")

# %% [markdown]
# At 100, not at 10: the loss approaches its limit like $1 / T$ only. The exact formula agrees in every row. The last column says how good
# "half the variance" is: at $T = 1$ it is off by far, from $T = 10$ on it is the loss. So with these logits, which lie some ten apart,
# temperatures of 10 and more are all the same loss, and only those from 1 to 5 choose which classes count.
#
# The float32 column is a trap. At $T = 10{,}000$ the divergence itself is about $10^{-8}$ and the logarithms are known to $10^{-7}$: what
# $T^2$ multiplies is rounding. Who wants the limit should take the squared difference of centred logits.
#
# ## Play with it
#
# The explorer shows a digit, the answers of a teacher and of a student, and how the two losses pull at the student's logits. Both
# classifiers are very simple (they know the mean image of each class), so that the pulls can be read.
#
# **Predict first**, then try:
#
# 1. At $T = 1$, which of the two pulls is larger? And at $T = 4$?
# 2. Raise the temperature to 20. What happens to the bars on the left, and what to the number $T^2 \text{KL}$ above them?
# 3. Choose the 8 at temperature 4. The label has almost nothing left to say. What does the teacher still correct?

# %%
from course_lib import explore

explore.distillation.show()

# %% [markdown]
# The explorer needs a running kernel. These three frames stand for it where there is none.

# %%
plots.show(explore.distillation.strip(), alt="""A nine, the answers of teacher and student, and the pulls on the student's logits at
    temperature 1, 4 and 20. The answers become flat; the pull of the hard label stays the same, that of distillation grows, then keeps
    its shape.""")

# %% [markdown]
# ## Does it help?
#
# Now train. The student has two hidden layers of 64 neurons, about a tenth of the teacher's numbers, and sees 30 images, about three of
# each class. One student learns from the labels of these images, the other from the teacher's softened answers to them, at $T = 4$. They
# start with the same weights and see the same images in the same order, so we can compare them in **pairs**, seed by seed.
#
# **Predict first.** How many points of test accuracy does the second student gain? In how many of five seeds is it ahead?

# %%
TEMPERATURE = 4.0


def from_answers(seed, probs):
    """A student of softened answers (30, 10) to the images it sees."""
    return train_student(seed, lambda logits, batch: TEMPERATURE**2 * F.cross_entropy(logits / TEMPERATURE, probs[batch]))


def test_accuracy(network):
    return 100 * metrics.accuracy(network(test_images).argmax(1), test_labels)


def report(name, scores, control):
    gain = torch.tensor(scores) - torch.tensor(control)
    words = f"gain {gain.mean():+5.1f} ± {gain.std():4.1f} points, ahead in {(gain > 0).sum()} of {len(gain)}"
    print(f"{name:32s} {sum(scores) / len(scores):5.1f} %" + (f", {words}" if scores is not control else ""))


answers = [(teachers[seed](train_images[sees(seed)]) / TEMPERATURE).softmax(1) for seed in range(NUM_SEEDS)]  # each (30, 10)
soft_students = [from_answers(seed, answers[seed]) for seed in range(NUM_SEEDS)]
live_hard, live_soft = ([test_accuracy(student) for student in students] for students in (hard_students, soft_students))
assert sum(live_soft) > sum(live_hard)
report("labels", live_hard, live_hard)
report("softened answers", live_soft, live_hard)
print(f"the teachers: {sum(test_accuracy(network) for network in teachers) / NUM_SEEDS:.1f} %")

# %% [markdown]
# Same images, same network, same number of steps, and a gain of thirteen points. The labels of the 30 images are in the answers, too, of
# course. What the answers add are $30 \times 9$ numbers.
#
# The lab measures the same with more care, over ten seeds, with a mixture of both losses,
#
# $$\alpha\, T^2\, \text{KL}(\text{teacher}\,\|\,\text{student}) + (1 - \alpha)\, \text{CE}(\text{label}, \text{student}),$$
#
# and with its learning rate chosen on validation images for the student of labels. You will write that loss in the lab. Here are its
# numbers for students that see 30, 100 or all 1,078 images (400, 400 and 800 steps).
#
# **Predict first.** With all images, is the gain larger or smaller than with 30?

# %%
TOPIC = "18_knowledge_distillation"


def paired_gains(records, row, control):
    """Test accuracy of a row minus that of its control, seed by seed, in points."""
    return torch.tensor([record[f"{row}, test"] - record[f"{control}, test"] for record in records])


def in_words(gain):
    return f"{gain.mean():+5.1f} ± {gain.std():3.1f} points, ahead in {(gain > 0).sum():2d} of {len(gain)}"


records = measurements.load(TOPIC, "soft_targets")
fig, (by_temperature, by_alpha) = plt.subplots(1, 2, figsize=(7.6, 3.4), sharey=True, width_ratios=[1.3, 1])
for size, color in [(30, "C0"), (100, "C2"), (1078, "C1")]:
    for ax, values, row in [
        (by_temperature, (1, 2, 4, 8, 16), "{size} images, T {value:g}, alpha 0.9"),
        (by_alpha, (0.1, 0.5, 0.9, 1.0), "{size} images, T 4, alpha {value:g}"),
    ]:
        runs = torch.stack([paired_gains(records, row.format(size=size, value=value), f"{size} images, hard") for value in values], 1)
        plots.mean_curve(ax, values, runs, label=f"{size} images", color=color)
for ax in (by_temperature, by_alpha):
    ax.axhline(0, color="0.4", linewidth=1)
by_temperature.set(xscale="log", xlabel="temperature, at α = 0.9", ylabel="gain over labels, points")
by_temperature.set_xticks([1, 2, 4, 8, 16], ["1", "2", "4", "8", "16"])
by_temperature.minorticks_off()
by_temperature.legend(loc="upper left", fontsize=8)
by_alpha.set(xlabel="α, at T = 4", xticks=[0.1, 0.5, 0.9], ylim=(-2, 24))
fig.suptitle("A large gain from few images, none from many", x=0.01, ha="left")
plots.show(fig, alt="Gain over labels by temperature and by alpha: large for 30 images, half of it for 100, zero or below for 1,078.")
for size in (30, 100, 1078):
    base = torch.tensor([record[f"{size} images, hard, test"] for record in records])
    print(f"{size:4d} images: labels {base.mean():.1f} ± {base.std():.1f} %")
    for t in (1, 2, 4, 16):
        print(f"     T = {t:2d}, alpha 0.9: {in_words(paired_gains(records, f'{size} images, T {t}, alpha 0.9', f'{size} images, hard'))}")

# %% [markdown]
# With 30 images the teacher is worth more than ten points, with 100 six, always ahead. With all 1,078 it is worth nothing, and at $T =
# 16$ it does harm. That is not a paradox: the teacher has learned from 1,078 labels. To a student who has seen 30 it can pass on some of
# what they say. A student who has all of them has nothing to gain from hearsay. So "does distillation help?" is a question about the
# **set-up**, not about the method.
#
# Two details. From $T = 4$ on the gain stays level, although the bits of one drawn class have all but vanished at 16: the student does
# use the faint differences, and $T^2$ makes up for their size. By the section before last, these are all nearly the same loss. And
# $\alpha$ hardly matters, as long as the teacher has a say at all.
#
# ## Is it the wrong classes that teach?
#
# A gain does not say where it comes from. A soft target differs from a label in at least three ways. It says **how sure** one can be of
# this image. It is **soft**, which may be good for any student, whoever made it. And it says **which wrong classes** are near. To tell
# these apart, build teachers that lack one thing. Furlanello et al. (2018) permute the probabilities of all but the first class, at
# random and for each image anew. The first class and how sure it is stay, even all ten numbers stay; which wrong class has which number
# is lost. Other controls give all wrong classes the same, as in the analysis of Tang et al. (2020), or give all images of a class the
# same answer.
#
# **Predict first.** Draw the answers of the three controls to one image of a 9.

# %%
def permuted(probs, generator):
    """Softened answers (N, 10), the wrong classes of each image in random order."""
    order = torch.rand(len(probs), 9, generator=generator).argsort(1).to(probs.device)
    first = probs.argmax(1, keepdim=True)  # (N, 1)
    others = torch.arange(10, device=probs.device).expand_as(probs)
    others = others[others != first].view(-1, 9)  # (N, 9) the classes that are not first
    return probs.scatter(1, others, probs.gather(1, others.gather(1, order)))


nine = (right & (labels == 9)).nonzero().squeeze(1)
softened = (logits[nine] / TEMPERATURE).softmax(1)
one = wrong[nine].argmax()
controls = {
    "teacher": softened[one],
    "permuted": permuted(softened[one : one + 1], torch.Generator().manual_seed(0))[0],
    "uniform rest": torch.where(torch.arange(10, device=device) == 9, softened[one, 9], (1 - softened[one, 9]) / 9),
    "mean of the class": softened.mean(0),
    "label": F.one_hot(labels[nine[one]], 10).float(),
}
fig, axes = plt.subplots(1, 2, figsize=(8, 2.3), width_ratios=[1, 5.6])
axes[0].imshow(images[nine[one], 0].cpu(), cmap="gray_r")
axes[0].set_axis_off()
plots.heat_map(axes[1], torch.stack(list(controls.values())).cpu(), cmap="Blues", limits=(0, 1))
axes[1].set_yticks(range(5), list(controls))
axes[1].set(xlabel="class", title="Four teachers and a label that agree on the first class")
plots.show(fig, alt="A nine and five rows of probabilities: teacher, permuted, uniform rest, class mean, label; all favour class 9.")

# %%
generator = torch.Generator().manual_seed(0)
live_permuted = [test_accuracy(from_answers(seed, permuted(answers[seed], generator))) for seed in range(NUM_SEEDS)]
report("softened answers", live_soft, live_hard)
report("permuted, 30 images", live_permuted, live_hard)
assert sum(live_soft) > sum(live_permuted)

# %% [markdown]
# Now the lab's numbers over ten seeds, with one more control: a teacher of full size that was trained on nothing but the student's own
# images.
#
# **Predict first.** Order the five teachers.

# %%
records = measurements.load(TOPIC, "dark_knowledge")
rows = {"real": "the real teacher", "class means": "mean of the class", "uniform rest": "uniform rest", "shuffled": "permuted",
        "own images": "knows the student's images only"}
fig, axes = plt.subplots(1, 3, figsize=(8.4, 2.6), sharex=True, sharey=True)
for ax, size in zip(axes, (30, 100, 1078)):
    print(f"{size} images")
    for y, (row, name) in enumerate(rows.items()):
        gain = paired_gains(records, f"{size} images, {row}", f"{size} images, hard")
        ax.plot(gain, torch.full_like(gain, y), "o", markersize=4, alpha=0.4, color="C0" if row == "real" else "0.5")
        ax.plot(gain.mean(), y, "|", markersize=16, markeredgewidth=2, color="C0" if row == "real" else "0.3")
        print(f"    {name:32s} {in_words(gain)}")
    ax.axvline(0, color="0.4", linewidth=1)
    ax.set(title=f"{size} images", xlabel="gain, points", yticks=range(5), yticklabels=rows.values())
axes[0].invert_yaxis()
fig.suptitle("With few images, the answer to this very image is worth most", x=0.01, ha="left")
plots.show(fig, alt="Gains of ten seeds for five teachers and three sizes of the transfer set, as dots with their mean.")

# %% [markdown]
# With 30 images the real teacher is worth about twelve points. How sure it is (uniform rest) or what its class is like (mean of the
# class) gives four or five of them; the rest needs the ten numbers of this very image. Permuted, the same numbers are worth nothing, so
# softness as such does not teach. The teacher that has seen no other image than the student has nothing to tell, however large it is.
#
# With 100 images the permuted teacher is worth two points: there a little is softness. With all images no teacher is worth anything, and
# the controls are, if anything, ahead of the real teacher. Where that is the case, as in several experiments of Yuan et al., a gain must
# not be called dark knowledge. Without a control teacher you cannot know.
#
# ## A class that the student never saw
#
# Another test of the same question. Hinton et al. left all images of a 3 out of the transfer set. The teacher has seen threes; the
# student sees none, only that some 8 is a little like a 3 and some 2, too. The lab repeats it with 300 digits.
#
# **Predict first.** How many of the threes of the test set does a student of labels recognise? A student of soft targets?

# %%
records = measurements.load(TOPIC, "missing_class")
names = {"hard": "labels", "T 1": "soft, T = 1", "T 2": "soft, T = 2", "T 4": "soft, T = 4", "T 8": "soft, T = 8"}
fig, ax = plt.subplots(figsize=(6.4, 3))
for what, shift, color, label in [("", -0.17, "0.6", "as it is"), (", bias raised", 0.17, "C0", "with a higher bias of the 3")]:
    recall = torch.tensor([[record[f"{name}{what}, recall of 3"] for name in names] for record in records])  # (10 seeds, 5)
    ax.bar(torch.arange(5) + shift, recall.mean(0), 0.34, yerr=recall.std(0), color=color, label=label)
    print(f"{label:28s}", ", ".join(f"{name} {m:.0f} ± {s:.0f} %" for name, m, s in zip(names.values(), recall.mean(0), recall.std(0))))
ax.set(xticks=range(5), xticklabels=names.values(), ylabel="threes recognised, %", ylim=(0, 135))
ax.set_title("The soft targets of other digits teach what a 3 is")
ax.set_yticks([0, 50, 100])
ax.grid(axis="x", visible=False)
ax.legend(loc="upper left", ncols=2)
plots.show(fig, alt="Threes recognised by students that never saw one: none from labels, most from soft targets with a raised bias.")

# %% [markdown]
# None, from labels. A class that never occurs is pushed down by every image, and no bias between 0 and 10 brings it back. The students of
# soft targets know well what a 3 looks like, but they find it too rare: as trained, they recognise 5 % of the threes at $T = 4$ and a
# quarter at $T = 8$. One number mends it, a bias added to the logit of the 3, chosen on validation images: then it is 95 %. What a 3 is
# came through the small probabilities of *other* digits. At $T = 1$ these are too small, and most of it is lost.
#
# ## Knowledge from inside
#
# The answer is the last thing a network computes. Its layers hold more, and there are three places to take it from: **answers**,
# **features** of one image, and **relations** between images. Features pose a problem. The student's layer has fewer channels than the
# teacher's, and even with as many there is no reason why channel 7 should mean the same in both. Each method has its own way round that.
#
# - **Hints** (FitNets): a small trainable layer, the **regressor**, translates the student's features before they are compared with the
#   teacher's, by half the squared distance. It is thrown away after training.
# - **Attention transfer:** squared activations are summed over the channels. What is left is one map that says *where* the layer is
#   active; it is scaled to length 1 and compared. No channel has to match another.
# - **Relational distillation:** for the distances between the images of a batch, divided by their mean, and for the angles in triangles
#   of images, it does not matter how many channels there are.
#
# We start with the attention maps of two layers without training: 4 and 64 random filters on one photograph.
#
# **Predict first.** How alike are the two maps?

# %%
generator = torch.Generator().manual_seed(0)
photo = F.avg_pool2d(datasets.photograph("cat")[:, :240, 150:], 3)  # (3, 80, 100)
maps = []
for channels in (4, 64):
    filters = torch.randn(channels, 3, 5, 5, generator=generator)
    filters = filters - filters.mean((2, 3), keepdim=True)  # blind to even areas
    activations = F.conv2d(photo, filters, stride=2).relu()  # (channels, h, w)
    attention = activations.square().sum(0)
    maps.append(attention / attention.norm())
fig = plots.image_row([photo, *(m / m.max() for m in maps)], ["photograph", "4 channels", "64 channels"], height=1.7, cmap="magma")
fig.suptitle("No channel in common, and much the same places", x=0.01, ha="left")
plots.show(fig, alt="A cat, and two maps of where 4 and 64 random filters are active: both bright along the rims of the eyes.")
print(f"cosine of the two maps: {(maps[0] * maps[1]).sum():.3f}")

# %% [markdown]
# Hence attention maps can be compared without a regressor, but two layers can look at the same place and see different things: what the
# channels say is summed away. Every one of the three losses is blind to something, and it pays to know to what. Relations first, on a
# triangle of three images.
#
# **Predict first.** Three embeddings form a right triangle with sides 3, 4 and 5. Which distances and which cosines does relational
# distillation compare? And after the plane is rotated and everything is ten times as large?

# %%
# NBVAL_CHECK_OUTPUT
triangle = torch.tensor([[0.0, 0], [3, 0], [0, 4]], dtype=torch.float64)
turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
for name, points in [("3, 4, 5", triangle), ("turned, times 10", 10 * triangle @ turn.T + 7)]:
    a, b, c = (points[0] - points[1]).norm(), (points[0] - points[2]).norm(), (points[1] - points[2]).norm()
    mean = (a + b + c) / 3
    cosines = [(a**2 + b**2 - c**2) / (2 * a * b), (a**2 + c**2 - b**2) / (2 * a * c), (b**2 + c**2 - a**2) / (2 * b * c)]  # law of cosines
    sides = " ".join(f"{side / mean:.2f}" for side in (a, b, c))
    print(f"{name:17s} distances / mean: {sides}  cosines:", *(f"{cosine:.2f}" for cosine in cosines))

# %% [markdown]
# Nothing changes. Now twelve images in the plane. The student's embedding is the teacher's, altered in one way.
#
# **Predict first.** Which of the five alterations does the plain squared distance see? Which a hint with its best regressor? Which the
# relative distances?

# %%
# NBVAL_CHECK_OUTPUT
points = torch.randn(12, 2, generator=generator, dtype=torch.float64)
moved = points.clone()
moved[0] += 2
students = {"turned": points @ turn.T, "doubled": 2 * points, "shifted": points + 3,
            "stretched along one axis": points * torch.tensor([3.0, 1.0]), "one image moved": moved}
print(f"{'the student is':26s} plain distance   hint, best regressor   relative distances")
for name, student in students.items():
    with_one = torch.cat([student, torch.ones(12, 1)], 1)  # a regressor with bias, by least squares
    translated = with_one @ torch.linalg.lstsq(with_one, points).solution
    plain, hint = (0.5 * (points - guess).square().sum(1).mean() for guess in (student, translated))
    d_student, d_teacher = torch.pdist(student), torch.pdist(points)
    relative = F.smooth_l1_loss(d_student / d_student.mean(), d_teacher / d_teacher.mean())
    print(f"{name:26s} {plain:14.3f} {hint:22.3f} {relative:20.3f}")

# %% [markdown]
# The plain distance complains about changes that matter to no later layer. The regressor forgives every linear change, even the stretch;
# relations forgive only turns, shifts and scale. All see the image that moved. A warning about hints: with as few images as channels the
# best regressor fits *anything*, and the loss says nothing.
#
# What are they worth? From the lab: 30 images, the second hidden layer, alone beside hard labels and then on top of soft targets. The
# weight of each loss is the best of three on validation images.
#
# **Predict first.** Which is worth most, and does anything add to soft targets?

# %%
def chosen_weight(records, base, name):
    """The row "base + weight x name" with the best mean accuracy on validation images."""
    rows = [key.removesuffix(", validation") for key in records[0] if key.startswith(f"{base} + ") and key.endswith(f" {name}, validation")]
    return max(rows, key=lambda row: sum(record[f"{row}, validation"] for record in records))


records = measurements.load(TOPIC, "feature_losses")
for base, words in [("hard", "on top of labels"), ("soft", "on top of soft targets")]:
    print(words)
    for name in ("hint", "distances", "angles"):
        row = chosen_weight(records, base, name)
        print(f"    {row.split(' + ')[1]:18s} {in_words(paired_gains(records, row, base))}")
    if base == "hard":
        print(f"    {'soft targets':18s} {in_words(paired_gains(records, 'soft', 'hard'))}")

# %% [markdown]
# Alone, every one of them is worth eight to ten points, most of what soft targets are worth: the knowledge is in many places of a
# teacher. On top of soft targets hints add nothing and distances nothing that the spread would not hide; angles add two points, in all
# ten seeds. And our warning? With 30 images and 64 numbers the best regressor fits anything, so hints should have been worthless, and
# they were not. Gradient descent starts with a small random regressor and changes the features along with it; that a perfect translation
# exists does not mean that it is found. What a loss *can* be blind to is not yet what training makes of it.
#
# Attention maps need places, which these networks do not have. The lab measures them on 300 crops of rendered scenes, with small
# convolutional networks, at three depths.

# %%
records = measurements.load(TOPIC, "picture_gains")
for words in ("few", "all"):
    for t in (1, 4, 16):
        gain = paired_gains(records, f"{words}, T {t}", f"{words}, hard")
        print(f"{words} crops, soft targets at T = {t:2d} against labels: {in_words(gain)}")
for base, words in [("few, hard", "labels"), ("few, T 4", "soft targets")]:
    row = chosen_weight(records, base, "attention")
    print(f"few crops, {row.split(' + ')[1]} on top of {words}: {in_words(paired_gains(records, row, base))}")

# %% [markdown]
# With 300 crops soft targets at $T = 4$ are worth six points, in all five seeds. Attention maps on top of labels are worth three, about
# half of that; on top of soft targets one point, which the spread hides. With all crops the teacher still gives three points at $T = 4$,
# less surely at the other temperatures. These students see every crop seven times only: what is in the labels is not used up.
#
# ## When the student is too small
#
# One would think that a better teacher teaches better. Mirzadeh et al. found that it need not: with the student fixed, its accuracy falls
# when the teacher becomes much larger than the student. They call it the **capacity gap** and put a "teacher assistant" of middle size in
# between.
#
# Part of the gap can be seen without training. The last layer turns $r$ numbers into $K$ logits, so the logits of a student, over all
# images, form a table of rank $r$ at most (apart from the bias). The singular value decomposition gives the closest table of rank $r$ to
# the teacher's: no student with $r$ numbers before its last layer can come closer.
#
# **Predict first.** How many numbers are enough to repeat nearly all of the teacher's first choices? And all of its logits?

# %%
z = teacher_logits - teacher_logits.mean(1, keepdim=True)  # (360, 10), what a softmax can see
bias = z.mean(0)
u, s, v = torch.linalg.svd(z - bias, full_matrices=False)
for rank in (1, 2, 3, 5, 7, 9):
    close = u[:, :rank] * s[:rank] @ v[:rank] + bias
    divergence = scaled_divergence(teacher_logits, close, TEMPERATURE).mean()
    same = metrics.accuracy(close.argmax(1), teacher_logits.argmax(1))
    print(f"rank {rank}: T² KL {divergence.abs():.3f}, same first choice for {same:.1%} of images")

# %% [markdown]
# Nine numbers say it all, since ten logits have only nine differences. With fewer, the student spends what it has on all nine differences
# at once, the dark ones as well, and the first choice suffers. A label would have allowed it to care for the first choice alone. Does
# this show in training? The lab has students of width 8 and 64, and teachers of width 16, 64 and 256.

# %%
records = measurements.load(TOPIC, "capacity_gap")
fig, axes = plt.subplots(1, 2, figsize=(7.4, 3.1), sharey=True)
for ax, size in zip(axes, (100, 1078)):
    for width, color in [(8, "C1"), (64, "C0")]:
        group = f"{size} images, student of {width}"
        runs = torch.stack([paired_gains(records, f"{group}, taught by {hidden}", f"{group}, hard") for hidden in (16, 64, 256)], 1)
        plots.mean_curve(ax, (16, 64, 256), runs, label=f"student of {width}", color=color)
        for hidden, gain in zip((16, 64, 256), runs.T):
            print(f"{group}, taught by {hidden:3d}: {in_words(gain)}")
        print(f"    256 against 16: {in_words(runs[:, 2] - runs[:, 0])}")
    ax.axhline(0, color="0.4", linewidth=1)
    ax.set(xscale="log", xlabel="width of the teacher", title=f"{size} images")
    ax.set_xticks([16, 64, 256], ["16", "64", "256"])
    ax.minorticks_off()
axes[0].set_ylabel("gain over labels, points")
axes[1].legend(fontsize=8)
fig.suptitle("With 100 images the small student learns most from the smallest teacher", x=0.01, ha="left")
plots.show(fig, alt="Gain by width of the teacher for two students, with 100 and with 1,078 images.")

# %% [markdown]
# With 100 images the student of 8 gains from every teacher, and most from the **smallest**, although the teacher of 256 is the best
# classifier by far: the paired difference is four points. That is the capacity gap. The student of 64 shows none: it learns a little more
# from the largest. With all images, the student of 8 gains from none of the three, and the student of 64 loses most with the teacher of
# 16, who knows less than the labels do. So a teacher can be too good, or not good enough. Why it can be too good, these numbers do not
# say; the rank alone is hardly the reason, since eight numbers would nearly have been enough.
#
# ## A teacher who knows nothing
#
# Szegedy et al. replaced labels by **smoothed** ones. Of C classes the labelled one gets $1 - \alpha + \alpha / C$, all others $\alpha /
# C$, in short $(1 - \alpha)\, y + \alpha / C$. That looks like a soft target, so who is the teacher? The cross entropy is linear in its
# target:
#
# $$\text{CE}\big((1 - \alpha) y + \tfrac{\alpha}{C},\; q\big) = (1 - \alpha)\, \text{CE}(y, q) + \alpha\, \text{CE}\big(\tfrac1C, q\big)
# = (1 - \alpha)\, \text{CE}(y, q) + \alpha\, \text{KL}\big(\tfrac1C \,\big\|\, q\big) + \alpha \log C .$$
#
# The right side is distillation at temperature 1, from a teacher that answers $1/C$ to every image, plus a constant. Yuan et al. took it
# further: a made-up teacher, sure of the label and with the rest shared evenly, came close to a trained one in their experiments.
#
# **Predict first.** Three classes and $\alpha = 0.3$. What are the targets? And by how much does the logit of the label exceed the other
# two when the loss is smallest?

# %%
# NBVAL_CHECK_OUTPUT
alpha, num_classes = 0.3, 3
target = torch.tensor([1 - alpha + alpha / 3, alpha / 3, alpha / 3], dtype=torch.float64)
z = torch.tensor([1.0, -0.5, 0.2], dtype=torch.float64)
log_q = z.log_softmax(0)
uniform = sum(1 / 3 * (math.log(1 / 3) - log_q[k]) for k in range(3))
print("targets:", *(f"{t:.1f}" for t in target))
two_parts = -(1 - alpha) * log_q[0] + alpha * uniform + alpha * math.log(3)
print(f"smoothed label {-(target * log_q).sum():.6f}, uniform teacher {two_parts:.6f}")
for c, a in [(3, 0.3), (10, 0.1), (10, 0.3), (1000, 0.1)]:
    print(f"{c:4d} classes, alpha {a}: the logits lie {math.log((1 - a + a / c) / (a / c)):.3f} apart when the loss is smallest")

# %% [markdown]
# The smallest loss has $q$ equal to the target, so the logits lie $\log\big(1 + C (1 - \alpha) / \alpha\big)$ apart, and all wrong
# classes are **level**. A plain label has no such point: it pulls the logits apart for ever. So smoothing does two things: it keeps
# logits small, and it asks for equal logits of all wrong classes. The second is the opposite of dark knowledge.
#
# ## When a smoothed teacher teaches worse
#
# Should the *teacher* be trained with smoothed labels? It often becomes a better classifier. Müller, Kornblith and Hinton looked at what
# it learns. They drew the numbers before the last layer, for the images of three classes, in the plane through the three **templates**,
# the rows of weights of the last layer. We do the same for the digits 3, 8 and 9, with and without $\alpha = 0.1$.
#
# **Predict first.** In which of the two pictures do the images of a class lie closer together?

# %%
smoothed_teachers = [train_teacher(seed, smoothing=0.1) for seed in range(NUM_SEEDS)]


def in_plane(network, classes=(3, 8, 9)):
    """The images of three classes in the plane through their templates: three (n, 2)."""
    templates = network[-1].weight[list(classes)]  # (3, width)
    basis = torch.linalg.qr((templates[1:] - templates[0]).T).Q  # (width, 2)
    features = network[:-1](train_images)
    return [(features[train_labels == c] @ basis).cpu() for c in classes]


def wrong_logits(network):
    """How far the right logit is above the mean of the wrong ones, and how uneven those are: by class, and from image to image."""
    z = network(train_images)
    is_right = F.one_hot(train_labels, 10).bool()
    others = z[~is_right].view(-1, 9)
    gap = (z[is_right] - others.mean(1)).mean()
    others = others - others.mean(1, keepdim=True)
    by_class = torch.stack([others[train_labels == c].mean(0) for c in range(10)])  # (10, 9)
    rest = others - by_class[train_labels]
    return torch.stack([gap, by_class.square().mean().sqrt(), rest.square().mean().sqrt()]).cpu()


fig, axes = plt.subplots(1, 2, figsize=(7, 3.2))
for ax, title, network in zip(axes, ("labels", "smoothed labels, α = 0.1"), (teachers[0], smoothed_teachers[0])):
    for c, color, group in zip((3, 8, 9), ("C0", "C1", "C2"), in_plane(network)):
        ax.plot(*group.T, ".", markersize=4, alpha=0.5, color=color, label=f"digit {c}")
    ax.set(title=title, aspect="equal", xticks=[], yticks=[])
axes[0].legend(fontsize=8)
fig.suptitle("Smoothing draws each class together, a little", x=0.01, ha="left")
plots.show(fig, alt="Training images of 3, 8 and 9 in the plane of their templates: three clouds, slightly smaller with smoothed labels.")
for title, networks in [("labels", teachers), ("smoothed labels", smoothed_teachers)]:
    accuracy = torch.tensor([test_accuracy(network) for network in networks])
    gap, by_class, rest = torch.stack([wrong_logits(network) for network in networks], 1)  # (NUM_SEEDS,) each
    print(f"{title}: test accuracy {accuracy.mean():.1f} ± {accuracy.std():.1f} %")
    print(f"    right logit above the wrong ones {gap.mean():.2f} ± {gap.std():.2f}")
    for what, values in [("by class", by_class), ("from image to image", rest)]:
        print(f"    wrong logits uneven {what:20s} {values.mean():.2f} ± {values.std():.2f}, in units of this {(values / gap).mean():.3f}")

# %% [markdown]
# The clouds shrink a little here, less than in the pictures of Müller et al., who had larger networks and data sets. The numbers are
# clearer. The gap between right and wrong logits has come down to about what the formula says, 4.51. If all logits had merely been scaled
# by the same factor, the last column would be as before. But the wrong logits have become much more even, above all the part that belongs
# to the class: what a 9 has in common with a 3 is largely gone, and a good part of what tells one 9 from another.
#
# **Predict first.** What does that do to the bits beyond the label, at $T = 1$ and at $T = 4$?

# %%
temperatures = torch.logspace(-0.6, 1.5, 22)
fig, ax = plt.subplots(figsize=(6, 3.3))
for title, networks, color in [("labels", teachers, "C0"), ("smoothed labels", smoothed_teachers, "C1")]:
    answers_of = [network(train_images) for network in networks]
    runs = torch.tensor([[bits_beyond_label(z, train_labels, t) for t in temperatures.tolist()] for z in answers_of])
    plots.mean_curve(ax, temperatures, runs, label=f"teacher of {title}", color=color)
    at = torch.tensor([[bits_beyond_label(z, train_labels, t) for t in (1.0, 4.0)] for z in answers_of])
    words = ", ".join(f"T = {t}: {bits.mean():.3f} ± {bits.std():.3f} bits" for t, bits in zip((1, 4), at.T))
    print(f"{title:16s} {words}, at most {runs.max(1).values.mean():.3f}")
ax.set(xscale="log", xlabel="temperature", ylabel="bits beyond the label", ylim=(0, None))
ax.set_title("Smoothing takes half of it away at T = 2, most at T = 4")
ax.set_xticks([0.25, 1, 2, 4, 8, 32], ["0.25", "1", "2", "4", "8", "32"])
ax.minorticks_off()
ax.legend()
plots.show(fig, alt="Bits beyond the label over temperature: the teacher of labels peaks higher, and at a higher temperature.")

# %%
records = measurements.load(TOPIC, "label_smoothing")
print("teachers, against alpha 0:")
for alpha in (0.1, 0.3):
    print(f"    alpha {alpha}: {in_words(paired_gains(records, f'teacher of alpha {alpha}', 'teacher of alpha 0'))}")
fig, axes = plt.subplots(1, 3, figsize=(8.2, 2.9), sharey=True)
for ax, size in zip(axes, (30, 100, 1078)):
    print(f"students of {size} images, against labels:")
    for temperature, color in [(1, "C1"), (4, "C0")]:
        names = [f"{size} images, teacher of alpha {alpha:g}, T {temperature}" for alpha in (0.0, 0.1, 0.3)]
        runs = torch.stack([paired_gains(records, name, f"{size} images, hard") for name in names], 1)
        plots.mean_curve(ax, (0, 0.1, 0.3), runs, label=f"T = {temperature}", color=color)
        for alpha, gain in zip((0, 0.1, 0.3), runs.T):
            print(f"    teacher of alpha {alpha}, T = {temperature}: {in_words(gain)}")
        print(f"        alpha 0.1 against alpha 0: {in_words(runs[:, 1] - runs[:, 0])}")
    for alpha in (0.1, 0.3):
        gain = paired_gains(records, f"{size} images, labels of alpha {alpha}", f"{size} images, hard")
        print(f"    no teacher, labels of alpha {alpha}: {in_words(gain)}")
    ax.axhline(0, color="0.4", linewidth=1)
    ax.set(title=f"{size} images", xlabel="smoothing of the teacher", xticks=(0, 0.1, 0.3))
axes[0].set_ylabel("gain over labels, points")
axes[2].legend(fontsize=8)
fig.suptitle("With few images smoothing the teacher costs at T = 4 and pays at T = 1", x=0.01, ha="left")
plots.show(fig, alt="Gain of students by the smoothing of their teacher, at temperature 1 and 4, for three sizes of the transfer set.")

# %% [markdown]
# The smoothed teachers are better classifiers, in all ten seeds. With 30 images and $T = 4$ their students are three points worse off:
# that is the finding of Müller et al. It has limits. At $T = 1$ it is the other way round, by six points, in the direction that the curve
# of bits showed: what a smoothed teacher knows it says at a low temperature. With 100 images the two teachers are equal at $T = 4$. And
# with all 1,078, where the plain teacher gave nothing, the students of smoothed teachers gain a point and a half; so do students who
# smooth their labels themselves, with no teacher at all. So there is no advice for every set-up. Chandrasegaran et al. studied the
# contradiction on large data sets and came to the same rule: distil from a smoothed teacher at a low temperature.
#
# ## Variant cards
#
# Programs that are all called "knowledge distillation" differ in their factors. The first card is about the loss.
#
# | question | this course | elsewhere |
# | --- | --- | --- |
# | factor of the soft part | $T^2$ | 1, with a weight tuned by hand for each $T$ |
# | which divergence | KL(teacher ‖ student) | KL(student ‖ teacher), by accident or on purpose |
# | divergence or cross entropy | divergence | cross entropy (Hinton et al.): same gradient, another number |
# | over the batch | sum over classes, mean over images (`"batchmean"`) | mean over both (default of [`F.kl_div`][kl]); sum over both |
# | $\alpha$ is the weight of | the teacher | the label |
#
# [kl]: https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.kl_div.html
#
# All on the real logits of above, 360 images and ten classes, at $T = 4$.
#
# **Predict first.** Which of the numbers differ by a factor that you can name?

# %%
t = 4.0
log_p, log_q = (teacher_logits / t).log_softmax(1), (student_logits / t).log_softmax(1)
reference = F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
variants = {
    "batchmean": reference,
    "mean": F.kl_div(log_q, log_p, reduction="none", log_target=True).mean(),  # reduction="mean" says the same, with a warning
    "sum": F.kl_div(log_q, log_p, reduction="sum", log_target=True),
    "with T²": t**2 * reference,
    "KL(student ‖ teacher)": F.kl_div(log_p, log_q, reduction="batchmean", log_target=True),
    "cross entropy": -(log_p.exp() * log_q).sum(1).mean(),
    "probabilities in place of logarithms": F.kl_div(log_q.exp(), log_p.exp(), reduction="batchmean"),
}
for name, value in variants.items():
    print(f"{name:38s} {value:12.5f}   {value / reference:10.4f} times the first")

# %% [markdown]
# The first four differ by $K = 10$, by $N = 360$ and by $T^2 = 16$. A student trained with `"mean"` learns from a teacher that speaks ten
# times more quietly, and with a thousand classes a thousand times. (PyTorch warns of it, and announces that `"mean"` will become
# `"batchmean"`: then the same program will have another loss.) The cross entropy differs by the teacher's entropy. The other direction is
# a different number, though for these two networks not very different. And a negative divergence means that probabilities went where
# logarithms belong: no error is raised.
#
# Now the factor $T^2$, together with $\alpha$.

# %%
for t in (1.0, 4.0, 16.0):
    pull = {name: 0.9 * factor * gradient(t).norm(dim=1).mean() for name, factor in [("with T²", t**2), ("without", 1)]}
    hard_pull = 0.1 * hard
    shares = ", ".join(f"{p / (p + hard_pull):.1%} {name}" for name, p in pull.items())
    print(f"T = {t:4.0f}, alpha 0.9: the teacher's share of the pull is {shares}")

# %% [markdown]
# Without the factor, a weight of 0.9 for the teacher at $T = 16$ is 8 % of the pull. And the **direction**? A student that can say
# everything ends at the teacher's answer either way, but a small one has to choose where to be wrong. Let the teacher find two of seven
# classes likely. The student can only shift a fixed bump.
#
# **Predict first.** Where does the bump go?

# %%
# NBVAL_CHECK_OUTPUT
places = torch.arange(7, dtype=torch.float64)
two_peaks = (-(places - 1).square() / 0.6).exp() + 0.9 * (-(places - 5).square() / 0.6).exp() + 0.001
two_peaks = two_peaks / two_peaks.sum()
shifts = torch.linspace(0, 6, 61, dtype=torch.float64)
bumps = (-(places - shifts[:, None]).square() / 2.5).softmax(1)  # (61, 7)
forward = (two_peaks * (two_peaks / bumps).log()).sum(1)
backward = (bumps * (bumps / two_peaks).log()).sum(1)
for name, loss in [("KL(teacher ‖ student)", forward), ("KL(student ‖ teacher)", backward)]:
    best = loss.argmin()
    print(f"{name}: best at place {shifts[best]:.1f}; answer", *(f"{b:.2f}" for b in bumps[best]))
print("the teacher:                              answer", *(f"{b:.2f}" for b in two_peaks))

# %% [markdown]
# The course's direction covers both peaks, because the student pays wherever the *teacher's* probability is large and its own is not. The
# other direction settles on one peak and ignores the other. For a classifier that is to learn the small probabilities, the first is the
# natural one.
#
# The second card is about smoothed labels.
#
# | question | this course | elsewhere |
# | --- | --- | --- |
# | who shares $\alpha$? | all $C$: $\alpha / C$ (Szegedy et al.; `F.cross_entropy`) | the $C - 1$ wrong ones: $\alpha / (C - 1)$ |
# | the label keeps | $1 - \alpha + \alpha / C$ | $1 - \alpha$ |
#
# **Predict first.** For how many classes does it matter? Is one of the two only the other with another $\alpha$?

# %%
# NBVAL_CHECK_OUTPUT
alpha = 0.1
for c in (2, 3, 10, 1000):
    ours, other = 1 - alpha + alpha / c, 1 - alpha  # of the labelled class
    gaps = [math.log(kept / ((1 - kept) / (c - 1))) for kept in (ours, other)]
    same = alpha * c / (c - 1)  # this alpha in our formula leaves 1 - 0.1 for the label
    print(f"C = {c:4d}: label {ours:.4f} and {other:.4f}, best gap of the logits {gaps[0]:.3f} and {gaps[1]:.3f}, "
          f"equal for alpha {same:.4f}: {1 - same + same / c:.4f}")

# %% [markdown]
# With two classes $\alpha = 0.1$ of one program is $\alpha = 0.2$ of the other; with a thousand nobody will notice. The two are one
# family, with $\alpha' = \alpha\, C / (C - 1)$. Trouble comes only where numbers are copied from one paper into another's program.
#
# ## What to take along
#
# A teacher's small probabilities say which wrong classes an image resembles; a temperature makes them large enough to be learned, as it
# takes the $T$-th root of all odds. The loss carries a factor $T^2$ because its gradient falls like $1 / T^2$, and for high temperatures
# it compares centred logits. Knowledge can be taken from answers, features and relations alike, and only control teachers and paired
# seeds tell whether a gain is knowledge, softness or luck: here it is large where the student has seen few images, and little or nothing
# where it has seen as many as its teacher. Label smoothing is the teacher who knows nothing; it helps where a real one does not.
#
# **Now the lab:** [knowledge_distillation.ipynb](../labs/18_knowledge_distillation/knowledge_distillation.ipynb). There you write all of
# these losses for batches, and the training, and measure what this lecture has drawn.
#
# **Open questions**
#
# 1. *Show* that the next term of $T^2\, \text{KL}$ after half the variance is $\frac{1}{6 T}$ times the third central moment of $\delta$
#    under $p$. When does the loss come from above its limit, when from below?
# 2. *Predict, then count:* let the teacher answer to all 1,078 images for a student that has labels of 30 only, `from_answers` with other
#    indices. How much of the gain was in the answers, how much is in the images?
# 3. *Change and explain:* permute the wrong classes with **one** fixed order for all images of a class instead of a new one for each.
#    Which of the three kinds of knowledge is lost now?
# 4. *Show* that a student whose last layer reads $r$ numbers can give any first choice to every image with $r = 2$, if its layers before
#    are free. Why is the rank then a limit for soft targets, and not for labels?
