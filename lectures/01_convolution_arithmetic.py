# %% [markdown]
# # Convolution arithmetic
#
# A convolution slides a small window along a signal and writes down one weighted sum at every stop. How many numbers come out, which pixels
# does each of them depend on, and how much work was it?
#
# **After this lecture you can** predict the size of a convolution's output before you run it; tell from the border of a feature map which
# padding made it; write one convolution as a loop, as a sparse matrix and as a product of copied windows; find the pixels that a deep unit
# sees, and the smaller part that it uses; and say where the work of a network goes.
#
# **You need** Python, tensors and the idea of a gradient. **Time:** about 75 minutes.
#
# **Sources**
#
# - Dumoulin and Visin, [A guide to convolution arithmetic for deep learning](https://arxiv.org/abs/1603.07285), 2016: chapter 2 (sizes),
#   section 4.1 (the matrix), section 5.1 (dilation).
# - Chellapilla, Puri and Simard, [High performance convolutional neural networks for document
#   processing](https://hal.inria.fr/inria-00112631), IWFHR 2006: unrolled convolution, today called im2col.
# - Araujo, Norris and Sim, [Computing receptive fields of convolutional neural
#   networks](https://distill.pub/2019/computing-receptive-fields/), Distill 2019: "Single-path networks".
# - Luo, Li, Urtasun and Zemel, [Understanding the effective receptive field](https://arxiv.org/abs/1701.04128), NeurIPS 2016: section 2.
# - Zhang, [Making convolutional networks shift-invariant again](https://arxiv.org/abs/1904.11486), ICML 2019: section 3.

# %% tags=["setup"]
import itertools
import time
import warnings

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F

from course_lib import datasets, measurements, plots

# %% [markdown]
# ## A window that averages
#
# Here are ten readings of a sensor. One of them, the −5, looks like a fault. A cheap repair is to replace readings by the mean of a few
# neighbours. Lay a window of `width` cells over the start of the signal, write down the mean, move the window by one cell, and repeat
# until it touches the end:
#
# $$\text{output}[i] = \frac{1}{\text{width}} \sum_{j=0}^{\text{width}-1} \text{signal}[i + j] .$$
#
# This is the **box filter**. We slide it by hand over the first few places.
#
# **Predict first.** The width is 3. How many means are there in all, and how many of them are spoilt by the −5?

# %%
# NBVAL_CHECK_OUTPUT
signal = torch.tensor([4, 3, 2, -5, 3, 5, 2, 5, 5, 6], dtype=torch.float64)
width = 3
for i in range(5):
    window = signal[i : i + width]
    print(f"i = {i}: window {window.tolist()}, mean {window.sum() / width:.2f}")

# %% [markdown]
# A mean is a weighted sum whose weights are all $1 / \text{width}$. Once we give the weights a name, `kernel`, nothing forces them to be
# equal, and we have the operation that the rest of this course is built on:
#
# $$\text{output}[i] = \sum_{j=0}^{\text{kernel\_size}-1} \text{kernel}[j]\; \text{signal}[i + j] .$$
#
# The function below is this formula for one axis: the loop runs over $i$, the sum over $j$. The window can start at
# $0, 1, \ldots, n - \text{kernel\_size}$, so there are $n - \text{kernel\_size} + 1$ outputs.

# %%
# NBVAL_CHECK_OUTPUT
def correlate1d(signal, kernel):
    kernel_size = len(kernel)
    places = range(len(signal) - kernel_size + 1)
    return torch.stack([(kernel * signal[i : i + kernel_size]).sum() for i in places])


box = torch.full((3,), 1 / 3, dtype=torch.float64)
smooth = correlate1d(signal, box)
print(len(signal), "readings,", len(smooth), "outputs:", [round(value, 2) for value in smooth.tolist()])

# %% [markdown]
# Eight outputs. In the figure each output stands under the middle of its window, so output $i$ stands at $i + 1$. Count the outputs that
# the −5 pulls down.

# %%
fig, ax = plt.subplots(figsize=(6, 3.5))
ax.plot(range(10), signal, "o--", color="grey", label="signal")
ax.plot(range(1, 9), smooth, "s-", color="C0", label="box filter, width 3")
ax.axvspan(1.5, 4.5, color="C1", alpha=0.2, label="windows that contain the −5")
ax.set(title="One bad reading reaches three outputs", xlabel="position (cells)", ylabel="value (sensor units)")
ax.legend()
plots.show(fig, alt="Ten readings with a dip to -5 at position 3, and the eight smoothed values, which dip at positions 2 to 4.")

# %% [markdown]
# Three, one for each place the window can have with the −5 inside. The number 3 appears twice in this picture: an output reads
# `kernel_size` inputs, and an input is read by up to `kernel_size` outputs. The second 3 will return when gradients flow back.
#
# ## Correlation or convolution?
#
# The best way to know a sliding filter is to feed it a single 1 among zeros, an **impulse**, and to look at what comes out.
#
# **Predict first.** The kernel is (1, 2, 4). In which order do 1, 2 and 4 come out of PyTorch's `conv1d`, and in which order out of
# NumPy's `convolve`?

# %%
# NBVAL_CHECK_OUTPUT
impulse = torch.tensor([0, 0, 0, 1, 0, 0, 0], dtype=torch.float64)
kernel = torch.tensor([1, 2, 4], dtype=torch.float64)
ours = correlate1d(impulse, kernel)
library = F.conv1d(impulse[None, None], kernel[None, None])[0, 0]  # (1, 1, 7) and (1, 1, 3): batch and channels come first
print("our loop:   ", ours.tolist())
print("F.conv1d:   ", library.tolist())
print("np.convolve:", np.convolve(impulse, kernel, mode="valid").tolist())

# %% [markdown]
# PyTorch agrees with our loop, and both return the kernel backwards. What deep learning calls convolution is, in the language of signal
# processing, **cross-correlation**. The true convolution reads the signal in the opposite direction, so that an impulse returns the kernel
# as it is.
#
# ### Variant card: cross-correlation against convolution
#
# | name | one output | who computes it |
# | --- | --- | --- |
# | cross-correlation | $\sum_j \text{kernel}[j]\;\text{signal}[i + j]$ | `F.conv1d` to `F.conv3d`, `np.correlate`, [TensorFlow][tf-convolution] |
# | convolution | $\sum_j \text{kernel}[\text{kernel\_size} - 1 - j]\;\text{signal}[i + j]$ | `np.convolve`, `scipy.signal.convolve`, books on signals |
#
# [tf-convolution]: https://www.tensorflow.org/api_docs/python/tf/nn/convolution
#
# One is the other with the kernel flipped. A network that learns its kernel learns the flipped one and never notices. You notice when you
# copy a kernel from a book or move weights between libraries. How far apart are the answers? On a photograph it depends on the kernel.

# %%
# NBVAL_CHECK_OUTPUT
photo = datasets.photograph("camera")  # (1, 512, 512), 0..1
generator = torch.Generator().manual_seed(0)
edge = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])  # Sobel's kernel: brightness to the right minus brightness to the left
kernels = {"box": torch.ones(3, 3) / 9, "edge": edge, "random": torch.randn(3, 3, generator=generator)}
for name, kernel2d in kernels.items():
    correlation = F.conv2d(photo[None], kernel2d[None, None])
    convolution = F.conv2d(photo[None], kernel2d.flip(0, 1)[None, None])
    print(f"{name:6s} largest difference / largest answer: {(correlation - convolution).abs().max() / correlation.abs().max():.2f}")

# %% [markdown]
# A symmetric kernel cannot tell the two apart. The edge kernel changes its sign when it is flipped, so the answers are as far apart as they
# can be: twice the answer itself. Say which of the two you mean whenever a kernel is not symmetric.
#
# ## Two axes: what an edge kernel sees
#
# That last cell went to images without a word about it. Along two axes the window is a rectangle, and the sum runs over both offsets:
#
# $$\text{output}[y, x] = \sum_{i} \sum_{j} \text{edge}[i, j]\; \text{image}[y + i, x + j] .$$
#
# We compute one output of a handwritten digit, 8 pixels high and wide, by hand, then all of them with the library.
#
# **Predict first.** Where the strokes are bright on a dark ground, is the answer on the left side of a stroke positive or negative?

# %%
# NBVAL_CHECK_OUTPUT
images, labels = datasets.digits()  # (1797, 1, 8, 8), 0..1
image = images[0, 0]  # (8, 8), a zero
y, x = 2, 0
window = image[y : y + 3, x : x + 3]
output = F.conv2d(image[None, None], edge[None, None])[0, 0]
print("label:", labels[0].item(), " output size:", tuple(output.shape))
print(f"by hand {(window * edge).sum():.4f}, library {output[y, x]:.4f}")

# %%
crop = photo[0, 60:240, 200:380]  # (180, 180): head and camera
crop_edges = F.conv2d(crop[None, None], edge[None, None])[0, 0]
fig, axes = plt.subplots(2, 2, figsize=(6, 6))
for row, (picture, answer) in enumerate([(image, output), (crop, crop_edges)]):
    axes[row, 0].imshow(picture, cmap="gray")
    drawn = axes[row, 1].imshow(answer, cmap="RdBu_r", vmin=-3, vmax=3)
    axes[row, 0].set(title=f"input {tuple(picture.shape)}", xlabel="x (pixels)", ylabel="y (pixels)")
    axes[row, 1].set(title=f"output {tuple(answer.shape)}", xlabel="x (pixels)", ylabel="y (pixels)")
for ax in axes.flat:
    ax.grid(False)
fig.colorbar(drawn, ax=axes, shrink=0.6, label="output (weighted brightness)")
fig.suptitle("Red: brighter to the right. Blue: darker to the right.")
plots.show(fig, alt="A digit zero and a photographer's head, each beside its output: red where it gets brighter to the right, else blue.")

# %% [markdown]
# Positive: walking to the right over the left side of a stroke, the image gets brighter. The same nine numbers work on a digit and on a
# photograph, and they are blind to horizontal edges. Each output also lost one pixel on every side: 8 became 6, and 180 became 178. Where
# that comes from is our next question.
#
# ## Sizes are counted, not remembered
#
# Besides the kernel's size three settings decide where the window may stand. `padding` adds cells at both ends, and in this section we
# count cells from the first added one. `stride` is the number of cells between two stops. `dilation` is the distance between two cells
# that the kernel reads, so that the window covers $\text{span} = \text{dilation} \cdot (\text{kernel\_size} - 1) + 1$ cells. The first
# stop is 0, and the window must not stick out at the end:
#
# $$\text{start} \in \{0,\ \text{stride},\ 2\,\text{stride}, \ldots\}, \qquad \text{start} + \text{span} \le n + 2\,\text{padding} .$$
#
# The output's size is the number of such starts.
#
# **Predict first.** Ten cells, kernel size 3, stride 2, no padding. How many outputs, and which input cell is read by none of them?

# %%
# NBVAL_CHECK_OUTPUT
n, kernel_size, stride, padding, dilation = 10, 3, 2, 0, 1
span = dilation * (kernel_size - 1) + 1
starts = [start for start in range(0, n + 2 * padding, stride) if start + span <= n + 2 * padding]
print("starts:", starts, "-> size", len(starts))
print("cells read:", sorted({start + step for start in starts for step in range(0, span, dilation)}))

# %% [markdown]
# Four outputs, and the last cell is never read: the next window would stick out by one. The library drops it without a warning.
#
# Counting also gives the formula. The last start is at most $n + 2\,\text{padding} - \text{span}$; that distance holds
# $\lfloor (n + 2\,\text{padding} - \text{span}) / \text{stride} \rfloor$ whole steps, and one more output belongs to start 0:
#
# $$\text{size} = \left\lfloor \frac{n + 2\,\text{padding} - \text{span}}{\text{stride}} \right\rfloor + 1 .$$
#
# It is relationship 6 of Dumoulin and Visin, with their relationship 15 for the dilated kernel inside `span`. Does counting agree with the
# library? We ask it for every combination in a small box of settings.

# %%
# NBVAL_CHECK_OUTPUT
agreed = 0
for n, kernel_size, stride, padding, dilation in itertools.product(range(9, 15), (1, 2, 3), (1, 2, 3), (0, 1, 2), (1, 2, 3)):
    last = n + 2 * padding - dilation * (kernel_size - 1) - 1  # the last place where the window may start
    library = F.conv1d(torch.ones(1, 1, n), torch.ones(1, 1, kernel_size), stride=stride, padding=padding, dilation=dilation)
    agreed += library.shape[-1] == len(range(0, last + 1, stride))
print(agreed, "of", 6 * 3 * 3 * 3 * 3, "settings agree with the library")

# %% [markdown]
# To see what the settings do, put a 1 into one input cell at a time and note which outputs answer. The answers to the ten impulses are the
# columns of a small picture. Its rows are the outputs, and dark cells are what an output reads.
#
# **Predict first.** Sketch the picture for ten cells, kernel size 3, stride 1. What changes with stride 2, with padding 1, with dilation 2?

# %%
def reads(n, kernel_size, **settings):
    impulses = torch.eye(n)[:, None]  # (n, 1, n): a batch of n signals, one impulse each
    return F.conv1d(impulses, torch.ones(1, 1, kernel_size), **settings)[:, 0].T  # (outputs, n)


fig, axes = plt.subplots(2, 2, figsize=(6, 5.6))
for ax, settings in zip(axes.flat, [dict(stride=1), dict(stride=2), dict(padding=1), dict(dilation=2)]):
    pattern = reads(10, 3, **settings)
    ax.imshow(pattern, cmap="Blues", vmax=1.4)
    name, value = next(iter(settings.items()))
    ax.set(title=f"{name} {value}: {len(pattern)} outputs", xlabel="input cell", ylabel="output", yticks=range(len(pattern)))
    ax.set_xticks(range(10))
    ax.grid(False)
fig.suptitle("Stride: longer steps. Padding: more rows. Dilation: gaps.")
plots.show(fig, alt="Four staircases of outputs against input cells: stride 1, stride 2 without cell 9, padding 1, dilation 2.")

# %% [markdown]
# With stride 2 the last column stays empty: cell 9 again. Padding adds the first and the last row, which read two real cells and one that
# is made up. Keep these pictures in mind: in a few sections the dark cells become weights, and the picture becomes the matrix of the
# convolution.
#
# ## Padding is an invention
#
# Cells outside the signal do not exist, so somebody has to invent them. There are four common inventions. With two cells on each side of
# (1, 2, 3, 4) they look like this.
#
# **Predict first.** Which of the four would you choose for a photograph, and which for the temperature over one day?

# %%
# NBVAL_CHECK_OUTPUT
short = torch.tensor([[[1.0, 2, 3, 4]]])  # (N, C, length): padding modes want all three axes
for mode in ["constant", "reflect", "replicate", "circular"]:
    print(f"{mode:9s}", F.pad(short, (2, 2), mode=mode)[0, 0].int().tolist())

# %% [markdown]
# `constant` is what `padding=2` does, with zeros. `reflect` mirrors without repeating the border cell, `replicate` repeats it. `circular`
# joins the two ends, which suits a day, because the next one begins where it ended, and hardly ever a photograph.
#
# How far apart are they? We blur the photograph with a box 61 pixels wide, padded to keep its size, and compare each mode with
# `replicate`: once over the pixels whose window sticks out, once over the others.

# %%
# NBVAL_CHECK_OUTPUT
border = 30
box2d = torch.full((1, 1, 61, 61), 1 / 61**2)
modes = ["constant", "reflect", "replicate", "circular"]
blurred = {mode: F.conv2d(F.pad(photo[None], (border,) * 4, mode=mode), box2d)[0] for mode in modes}
inside = torch.zeros(1, 512, 512, dtype=torch.bool)
inside[:, border:-border, border:-border] = True
for mode, result in blurred.items():
    difference = (result - blurred["replicate"]).abs()
    print(f"{mode:9s} mean difference: border {difference[~inside].mean():.3f}, inside {difference[inside].mean():.3f}")

# %%
titles = ["zeros: dark border", "replicate: no trace", "circular: grass in the sky"]
fig = plots.image_row([blurred["constant"], blurred["replicate"], blurred["circular"]], titles, height=2.6)
plots.show(fig, alt="The blurred photograph, padded with zeros: a dark frame; replicate: none; circular: dark patches at the top.")

# %% [markdown]
# Inside, all agree. At the border zeros are off by 0.15 of the range from black to white, and in a deep network the frame grows inwards
# with every layer. Reflect and replicate cannot be told apart by eye. Zeros are still the usual choice. They are cheap, and networks have
# been found to use the frame to tell where in the image they are ([Islam et al. 2020](https://arxiv.org/abs/2001.08248)).
#
# ### Variant card: what does "same" mean?
#
# | question | PyTorch | elsewhere |
# | --- | --- | --- |
# | even kernel size, `padding="same"`: where does the odd cell go? | after the end | before the start: `np.convolve(mode="same")` |
# | "same" with a stride above 1 | [refused][conv2d]; one writes `padding=kernel_size // 2` | TensorFlow's ['SAME'][tf-padding], below |
# | cells that are left over | dropped: the $\lfloor\;\rfloor$ in the formula | the same in TensorFlow's 'VALID' |
#
# [conv2d]: https://docs.pytorch.org/docs/stable/generated/torch.nn.Conv2d.html
# [tf-padding]: https://www.tensorflow.org/api_docs/python/tf/nn
#
# The first row is one cell of shift. The second is worse, because it depends on the parity of $n$. 'SAME' promises
# $\lceil n / \text{stride} \rceil$ outputs and pads no more than that needs ("Notes on padding" in TensorFlow's documentation):
#
# $$\text{total} = \max\big((\lceil n / \text{stride} \rceil - 1) \cdot \text{stride} + \text{kernel\_size} - n,\ 0\big)$$
#
# cells at dilation 1: `total // 2` in front and the rest, the odd one included, at the end.
#
# **Predict first.** Kernel size 3 and stride 2: for which $n$ do PyTorch's `padding=1` and 'SAME' read different cells?

# %%
# NBVAL_CHECK_OUTPUT
pair = torch.ones(2, dtype=torch.float64)
with warnings.catch_warnings(action="ignore"):  # PyTorch warns that an even kernel makes it copy the signal
    same = F.conv1d(signal[None, None], pair[None, None], padding="same")[0, 0]
print("even kernel, PyTorch:", same.int().tolist())
print("even kernel, NumPy:  ", np.convolve(signal, pair, mode="same").astype(int).tolist())
kernel_size, stride = 3, 2
for n in (9, 10):
    size = -(-n // stride)  # ceil(n / stride)
    total = max((size - 1) * stride + kernel_size - n, 0)
    ours, theirs = range(-1, n + 2 - kernel_size, stride), [i * stride - total // 2 for i in range(size)]
    print(f"n = {n:2d}: PyTorch starts at {list(ours)}, 'SAME' at {theirs}")

# %% [markdown]
# For odd $n$ the two agree. For even $n$, and the usual 224 is even, both return the same size but every window is moved by one cell. No
# shape shows it. What does it cost to use a kernel under the wrong one of the two conventions? We try the edge kernel on the photograph.

# %%
# NBVAL_CHECK_OUTPUT
for n in (511, 512):
    square = photo[None, :, :n, :n]
    ours = F.conv2d(square, edge[None, None], stride=2, padding=1)
    before = ((-(-n // 2) - 1) * 2 + 3 - n) // 2  # 'SAME' puts total // 2 cells in front, the rest behind
    same = F.conv2d(F.pad(square, (before, 1, before, 1)), edge[None, None], stride=2)
    error = (same - ours).norm() / ours.norm()
    print(f"n = {n}: sizes {tuple(ours.shape[2:])} and {tuple(same.shape[2:])}, relative difference {error:.2f}")

# %% [markdown]
# For even $n$ the error is as large as the answer itself. Whoever ports weights therefore pads by hand with `F.pad` and convolves without
# padding.
#
# ## Play with it
#
# Here a 3 × 3 kernel stands on a handwritten three. The framed cells on the left are what one output reads, in the middle are the nine
# products, and their sum goes to the framed cell on the right. Drag a slider, or click into a box and press the arrow keys.
#
# **Predict first**, then try:
#
# 1. Move `output column` from 1 to 4 with the edge kernel. Where does the sign change, and what do you see there in the digit?
# 2. Set padding 1 and stride 2. The output has 12 cells. Which of them were there at padding 0 and stride 1 already?
# 3. At dilation 2 the kernel still has nine weights. Why are only 6 outputs left of 20?

# %%
from course_lib import explore

explore.convolution.show()

# %% [markdown]
# The explorer needs a running kernel. These three frames stand for it where there is none.

# %%
plots.show(explore.convolution.strip(), alt="""Input, nine products and output of the edge kernel at output (1, 1), three times. Plain: 4 × 5
    outputs, the sum is 42. Stride 2 and padding 1: 3 × 4 outputs, the same nine cells and again 42. Dilation 2: 2 × 3 outputs, the nine
    cells are two apart and their sum is 2.""")

# %% [markdown]
# The first two frames read the same nine cells: stride 2 with padding 1 keeps every second output of a larger map, and outputs whose window
# lies inside the image are the old ones. New are only those that read the grey zeros. In the third frame the window spans five cells, so it
# fits into six rows in two places and into seven columns in three.
#
# ## Channels and groups
#
# A colour image has three channels, a feature map hundreds. Each output channel $o$ has a window of weights for every input channel $c$
# and adds up all the sums:
#
# $$\text{output}[o, i] = \sum_{c} \sum_{j} \text{weight}[o, c, j]\; \text{signal}[c, i + j] .$$
#
# With `groups` above 1 the channels are split into that many separate teams, and an output channel listens to its own team only. The weight
# then has $C_\text{in} / \text{groups}$ input channels. When every channel is its own team the convolution is called **depthwise**.
#
# **Predict first.** Eight channels in, twelve out, four groups. To which input channels does output channel 5 listen?

# %%
# NBVAL_CHECK_OUTPUT
features = torch.ones(1, 8, 16, requires_grad=True)  # (N, C_in, length)
for groups in (1, 2, 4):
    weight = torch.ones(12, 8 // groups, 3)  # (C_out, C_in / groups, kernel_size)
    output = F.conv1d(features, weight, groups=groups)
    (gradient,) = torch.autograd.grad(output[0, 5, 0], features)
    heard = gradient[0].sum(1).nonzero().flatten().tolist()
    print(f"groups {groups}: {weight.numel():3d} weights, output channel 5 hears input channels {heard}")

# %% [markdown]
# Channels 2 and 3: with four groups, each team turns two channels into three, and output 5 is the last of the second team. Every doubling
# of the groups halves the weights and the work. The price is that teams never talk, so some layer without groups has to follow.
#
# Now turn it around: a kernel of size 1 reads no neighbours and mixes only channels. It is a matrix product at every pixel, and it is how
# one turns colour into grey. The three weights are those of ITU-R BT.601, which say how bright red, green and blue look to us.

# %%
# NBVAL_CHECK_OUTPUT
flower = datasets.photograph("flower")  # (3, 427, 640)
luma = torch.tensor([[0.299, 0.587, 0.114]])  # (C_out, C_in) = (1, 3), ITU-R BT.601
as_convolution = F.conv2d(flower[None], luma[:, :, None, None])[0]
as_product = torch.einsum("oc,chw->ohw", luma, flower)
print(tuple(flower.shape), "->", tuple(as_convolution.shape), " same:", torch.allclose(as_convolution, as_product, atol=1e-6))

# %% [markdown]
# Networks use such 1 × 1 layers wherever the number of channels has to change and the pixels have not.
#
# ## The same sum as a matrix
#
# A convolution is linear: double the signal and the output doubles. So it is a matrix, and each row of the matrix is one place of the
# window. Row $i$ holds the kernel from column $i$ on and zeros elsewhere:
#
# $$\text{matrix}[i, i + j] = \text{kernel}[j], \qquad \text{output} = \text{matrix} \cdot \text{signal} .$$
#
# **Predict first.** For our ten readings and a kernel of three: what shape has the matrix, and how many different numbers stand in it?

# %%
# NBVAL_CHECK_OUTPUT
kernel = torch.tensor([1, 2, 4], dtype=torch.float64)
matrix = torch.zeros(8, 10, dtype=torch.float64)
for i in range(8):
    matrix[i, i : i + 3] = kernel
print(matrix.int())
print(f"{matrix.numel()} entries, {kernel.numel()} weights; equal to the loop: {torch.equal(matrix @ signal, correlate1d(signal, kernel))}")

# %% [markdown]
# Every diagonal is constant: a **Toeplitz** matrix. A dense layer from 10 to 8 cells would learn all 80 entries. Here there are 3
# weights, repeated, and zeros. Both are claims about the world: *nearby things belong together* (zeros) and
# *what is useful here is useful there* (the same weights in every row).
#
# For an image we flatten the pixels row by row. What does the matrix look like now? We need no formula to find out: the columns of any
# matrix are its answers to impulses, so we push every impulse image through the library.
#
# **Predict first.** The image is 4 × 5, the kernel 2 × 3. How many weights stand in a row of the matrix, and are they neighbours?

# %%
H, W = 4, 5
kernel2d = torch.tensor([[1.0, 2, 3], [4, 5, 6]])
impulses = torch.eye(H * W).reshape(H * W, 1, H, W)  # one image for each pixel
answers = F.conv2d(impulses, kernel2d[None, None])  # (20, 1, 3, 3)
matrix2d = answers.reshape(H * W, -1).T  # (9 outputs, 20 pixels)
fig, ax = plt.subplots(figsize=(6, 3.6))
drawn = ax.imshow(matrix2d, cmap="Blues")
ax.vlines([4.5, 9.5, 14.5], -0.5, 8.5, color="grey")
ax.hlines([2.5, 5.5], -0.5, 19.5, color="grey")
ax.set(title="Equal blocks on diagonals, equal weights inside", xlabel="pixel, row by row", ylabel="output, row by row")
ax.set_xticks(range(0, 20, 5))
ax.grid(False)
fig.colorbar(drawn, label="weight", shrink=0.6)
plots.show(fig, alt="A 9 by 20 matrix in 3 by 4 blocks: each block is a small staircase, and equal blocks lie along diagonals.")

# %% [markdown]
# Grey lines separate image rows. A block says what one row of the image does to one row of the output: it is a one-dimensional Toeplitz
# matrix made of one row of the kernel. The blocks themselves are arranged like the entries of a Toeplitz matrix. The name is
# **doubly block Toeplitz**. A matrix row holds six weights in two runs of three, one run for each kernel row.
#
# The matrix is a way to think, not to compute. On a real image nearly all of it is zeros. But it gives the gradient for nothing: if
# $\text{output} = \text{matrix} \cdot \text{signal}$, then a gradient $g$ at the output is $\text{matrix}^\top g$ at the input.

# %%
# NBVAL_CHECK_OUTPUT
leaf = signal.clone().requires_grad_(True)
g = torch.arange(1, 9, dtype=torch.float64)  # some gradient that arrives at the eight outputs
(gradient,) = torch.autograd.grad(F.conv1d(leaf[None, None], kernel[None, None])[0, 0], leaf, grad_outputs=g)
print("autograd:    ", gradient.int().tolist())
print("matrix.T @ g:", (matrix.T @ g).int().tolist())
rows, columns = 222**2, 224**2  # a 3 x 3 kernel on a 224 x 224 image
print(f"224 x 224 pixels: matrix {rows} x {columns}, {rows * columns * 4 / 1e9:.1f} GB as float32, {9 / columns:.4%} of it not zero")

# %% [markdown]
# The transposed matrix spreads each output's gradient over the three cells it had read. Used forwards, as a layer of its own, it is the
# transposed convolution, and topic 02 is about it.
#
# ## im2col: copy the signal instead of the weights
#
# The matrix above repeats the weights and keeps the signal once. We may as well do the opposite: keep the kernel once and write
# out every window as a row,
#
# $$\text{windows}[i, j] = \text{signal}[i + j], \qquad \text{output} = \text{windows} \cdot \text{kernel} .$$
#
# It is the same sum with the roles exchanged. What is gained is that `windows` is dense, and that a second kernel is only a second column:
# one matrix product computes all output channels, and nothing on a computer is tuned better than a matrix product.
#
# **Predict first.** How many numbers does `windows` hold for ten readings and kernel size 3?

# %%
# NBVAL_CHECK_OUTPUT
windows = signal.unfold(0, 3, 1)  # dimension 0, size 3, step 1: (8, 3)
two_kernels = torch.stack([kernel, box], dim=1)  # (3, 2)
output = windows @ two_kernels  # (8, 2): both filters at once
print(windows.int()[:4].tolist(), "...", windows.numel(), "numbers from", signal.numel())
print("equal to the loops:", [torch.allclose(output[:, k], correlate1d(signal, two_kernels[:, k])) for k in range(2)])
print("memory shared with the signal:", windows.data_ptr() == signal.data_ptr())

# %% [markdown]
# 24 numbers from 10. In general each value is copied up to `kernel_size` times along each axis: 9 times for a 3 × 3 kernel, 49 times for
# 7 × 7. That is the price of im2col. PyTorch's one-dimensional `unfold` postpones it: its result is only a new way of reading the old
# memory. Chellapilla and colleagues, who brought the idea to convolutional networks in 2006, report a speed-up of 2.4 to 3.0. Against
# loops in Python the gap is wider.
#
# **Predict first.** A signal of 20,000 samples, kernel size 9: how many times faster is the product than our loop?

# %% tags=["volatile"]
long_signal = torch.randn(20_000, generator=generator)
long_kernel = torch.randn(9, generator=generator)
begin = time.perf_counter()
looped = correlate1d(long_signal, long_kernel)
middle = time.perf_counter()
multiplied = long_signal.unfold(0, 9, 1) @ long_kernel
end = time.perf_counter()
assert torch.allclose(looped, multiplied, atol=1e-4)
print(f"loop {1e3 * (middle - begin):.0f} ms, product {1e3 * (end - middle):.2f} ms, {(middle - begin) / (end - middle):.0f} times faster")

# %% [markdown]
# Nothing was saved in arithmetic: both do the same multiplications. The product does them in one call, next to each other in memory.
#
# ## More axes, same sum
#
# One axis more is one sum more. Look again at the formula for images: for a fixed kernel row $i$ the inner sum over $j$ is a
# one-dimensional correlation of image row $y + i$. So a two-dimensional correlation is a sum of one-dimensional ones,
#
# $$\text{output}[y] = \sum_{i} \text{correlate}\big(\text{image}[y + i],\ \text{kernel2d}[i]\big) ,$$
#
# and the same nesting leads from two axes to three. The axes never mix in the size formula, so each has its own kernel size, stride and
# padding.

# %%
# NBVAL_CHECK_OUTPUT
coins = datasets.photograph("coins")[0]  # (303, 384)
height = coins.shape[0] - 2 + 1  # output rows for a kernel of two rows
nested = sum(F.conv1d(coins[i : i + height, None], kernel2d[None, None, i])[:, 0] for i in range(2))  # image rows as a batch of signals
direct = F.conv2d(coins[None, None], kernel2d[None, None])[0, 0]
print(tuple(coins.shape), "->", tuple(nested.shape), " same as conv2d:", torch.allclose(nested, direct, atol=1e-4))

# %% [markdown]
# A film is an image with a third axis, time. We make one from two handwritten digits: the upper one stands still, the lower one moves
# by two pixels a frame. The kernel has size 2 along time and 1 along height and width: it subtracts each frame from the next.
#
# **Predict first.** Which digit survives, and how many frames come out of five?

# %%
film = torch.zeros(1, 1, 5, 18, 18)  # (N, C, time, H, W)
for t in range(5):
    film[0, 0, t, 0:8, 5:13] = images[3, 0]
    film[0, 0, t, 10:18, 1 + 2 * t : 9 + 2 * t] = images[7, 0]
difference = torch.tensor([-1.0, 1]).reshape(1, 1, 2, 1, 1)
motion = F.conv3d(film, difference)  # (1, 1, 4, 18, 18)
fig, axes = plt.subplots(2, 4, figsize=(6, 3.6))
for t in range(4):
    axes[0, t].imshow(film[0, 0, t], cmap="gray")
    axes[1, t].imshow(motion[0, 0, t], cmap="RdBu_r", vmin=-1, vmax=1)
    axes[0, t].set(title=f"frame {t}", xticks=[], yticks=[])
    axes[1, t].set(title=f"output {t}", xticks=[], yticks=[])
fig.suptitle("A kernel along time sees only what moves")
plots.show(fig, alt="Four frames with a standing 3 above a moving 7; in the four outputs only the 7 leaves a red and blue trace.")

# %% [markdown]
# The standing 3 cancels against itself, the 7 leaves red where it arrives and blue where it was. Five frames give $5 - 2 + 1 = 4$ outputs:
# along time we counted as along any axis.
#
# ## What it costs
#
# Each weight of a convolution is used once at every output position. So a layer needs
#
# $$\text{macs} = \text{weights} \times \text{positions}$$
#
# multiply-adds, and its two costs come apart: *memory* counts weights, *time* counts weights times positions. In VGG-16
# ([Simonyan and Zisserman](https://arxiv.org/abs/1409.1556), table 1, column D) the second layer is a 3 × 3 convolution from 64 to 64
# channels on a map of 224 × 224. The first dense layer reads 512 × 7 × 7 numbers and writes 4,096.
#
# **Predict first.** Which of the two has more weights, which needs more multiply-adds, and by what factors?

# %%
# NBVAL_CHECK_OUTPUT
convolution = torch.nn.Conv2d(64, 64, 3, padding=1, device="meta")  # "meta": shapes without memory
dense = torch.nn.Linear(512 * 7 * 7, 4096, device="meta")
for name, layer, positions in [("convolution", convolution, 224**2), ("dense", dense, 1)]:
    weights = layer.weight.numel()
    macs = weights * positions
    print(f"{name:11s} {weights:11,} weights x {positions:6,} positions = {macs:13,} multiply-adds")
ratio = dense.weight.numel() / convolution.weight.numel()
print(f"the dense layer has {ratio:,.0f} times the weights, the convolution does {224**2 / ratio:.0f} times the work")

# %% [markdown]
# One layer fills the file, the other takes the time. Making a model small and making it fast are two different jobs.
#
# To save work, split the two things a convolution does. A depthwise 3 × 3 looks at neighbours in each channel alone, a 1 × 1 then mixes
# channels. With $C_\text{out}$ output channels the pair costs
#
# $$\frac{1}{C_\text{out}} + \frac{1}{\text{kernel\_size}^2}$$
#
# of the full layer (MobileNets, [Howard et al.](https://arxiv.org/abs/1704.04861), section 3.1).
#
# **Predict first.** For 256 channels and a 3 × 3 kernel: which factor do we save, and why can it never exceed 9?

# %%
# NBVAL_CHECK_OUTPUT
full = torch.nn.Conv2d(256, 256, 3, bias=False).weight.numel()
depthwise = torch.nn.Conv2d(256, 256, 3, groups=256, bias=False).weight.numel()
pointwise = torch.nn.Conv2d(256, 256, 1, bias=False).weight.numel()
print(f"full {full:,} against {depthwise:,} + {pointwise:,} = {depthwise + pointwise:,}: {full / (depthwise + pointwise):.2f} times less")
print(f"1 / (1 / 256 + 1 / 9) = {1 / (1 / 256 + 1 / 9):.2f}")

# %% [markdown]
# Even with endlessly many channels the 1 × 1 layer remains, and it alone costs one ninth of the full layer.
#
# ## What one output sees
#
# An output reads a window of the layer below, whose cells have read windows of the layer below that. The pixels that reach it in the end
# are its **receptive field**. We follow it backwards through two layers. Layer B, on top, has kernel size 3, stride 1, padding 0. Layer A,
# on the pixels, has kernel size 3, stride 2, padding 1. If a layer's outputs `first` to `last` are wanted, it has to read the cells
#
# $$\text{first} \cdot \text{stride} - \text{padding}
# \quad\text{to}\quad \text{last} \cdot \text{stride} - \text{padding} + \text{kernel\_size} - 1 .$$
#
# **Predict first.** How many pixels does output 0 of the pair see, and how far does the field move from one output to the next?

# %%
# NBVAL_CHECK_OUTPUT
for output_index in range(3):
    first = last = output_index
    first, last = first * 1 - 0, last * 1 - 0 + 3 - 1  # through B: cells of the middle layer
    first, last = first * 2 - 1, last * 2 - 1 + 3 - 1  # through A: pixels
    print(f"output {output_index}: pixels {first:2d} to {last}, size {last - first + 1}, centre {(first + last) / 2}")

# %% [markdown]
# Three numbers say it all. The **size** is 7. The **jump**, the distance between neighbouring fields, is 2. The **start**, the centre of
# the first field, is pixel 2; pixel −1 is padding. Read from the pixels upwards this becomes a growth rule. It starts with size 1 and
# jump 1. A layer adds $\text{kernel\_size} - 1$ steps to the field, each of `dilation` cells, which are `jump` pixels apart, and then
# multiplies the jump by its stride:
#
# $$\text{size} \leftarrow \text{size} + \text{dilation} \cdot (\text{kernel\_size} - 1) \cdot \text{jump},
# \qquad \text{jump} \leftarrow \text{jump} \cdot \text{stride} .$$
#
# How the start moves you will find in the lab. To check such arithmetic there is an independent witness, the gradient: a pixel is in the
# field if the output's gradient there is not zero. If all weights are 1, the gradient even says *in how many ways* the pixel reaches the
# output.
#
# **Predict first.** Swap the two layers, stride-1 layer first. Does the size stay 7?

# %%
# NBVAL_CHECK_OUTPUT
def paths(layers, n, output_index):
    pixels = torch.zeros(1, 1, n, dtype=torch.float64, requires_grad=True)
    x = pixels
    for kernel_size, stride, padding, dilation in layers:
        x = F.conv1d(x, x.new_ones(1, 1, kernel_size), stride=stride, padding=padding, dilation=dilation)
    (ways,) = torch.autograd.grad(x[0, 0, output_index], pixels)
    return ways[0, 0]  # (n,) number of ways from each pixel to this output


A, B = (3, 2, 1, 1), (3, 1, 0, 1)  # kernel_size, stride, padding, dilation
for name, layers in [("A, then B", [A, B]), ("B, then A", [B, A])]:
    print(f"{name}: output 2 sees pixels {paths(layers, 15, 2).nonzero().flatten().tolist()}")

# %% [markdown]
# The witness confirms pixels 3 to 9 for output 2. In the other order the field is only 5 wide: a stride widens the steps of
# the layers *after* it, so networks that want a large field stride early.
#
# Dilation widens the steps without giving up resolution. By the rule, three layers of kernel size 3 and stride 1 have a field of 7 with
# dilations 1, 1, 1, of $1 + 2 \cdot (1 + 2 + 4) = 15$ with dilations 1, 2, 4, and of 13 with dilations 2, 2, 2.
#
# **Predict first.** Does an output of the last stack really see 13 pixels?

# %%
stacks = {"dilations 1, 1, 1": (1, 1, 1), "dilations 1, 2, 4": (1, 2, 4), "dilations 2, 2, 2": (2, 2, 2)}
fig, axes = plt.subplots(3, 1, figsize=(6, 5), sharex=True)
for ax, (name, dilations) in zip(axes, stacks.items()):
    ways = paths([(3, 1, dilation, dilation) for dilation in dilations], 41, 20)  # padding = dilation keeps the size
    seen = ways.nonzero().flatten() - 20
    ax.bar(range(-20, 21), ways, color="C0")
    ax.set(title=f"{name}: size {seen.max() - seen.min() + 1}, {len(seen)} pixels seen", ylabel="ways", xlim=(-9, 9), ylim=(0, 8))
axes[-1].set_xlabel("pixel, counted from the centre of the field")
fig.suptitle("A field can be wide and still have holes")
plots.show(fig, alt="Ways from each pixel to one output: a bump over 7 pixels, a low ridge over 15, a bump over 13 with gaps.")

# %% [markdown]
# Seven: every second pixel is missing, however many such layers follow, because the steps −2, 0 and 2 never add up to an odd number. The
# size alone does not tell. The first stack shows something else: all seven pixels count, but not alike. One way leads from the outermost
# pixel to the output, seven lead from the middle.
#
# ## How much of the field is used
#
# Follow that up. In a stack of `num_layers` layers with kernel size 3 and stride 1, a way from output to pixel is a sequence of steps, each
# −1, 0 or +1. Draw every step at random: then all ways are equally likely, and the share of ways that end at a
# pixel is the chance that `num_layers` three-sided dice add up to its distance. One such die has mean 0 and variance
# $\tfrac{1}{3}(1 + 0 + 1) = \tfrac{2}{3}$. Variances add, and the sum of many dice approaches a Gaussian, with
#
# $$\text{std} = \sqrt{\tfrac{2}{3}\,\text{num\_layers}}, \qquad\text{while}\qquad \text{field} = 2\,\text{num\_layers} + 1 .$$
#
# **Predict first.** Ten layers, a field of 21 pixels. How many times more ways lead to the middle pixel than to the outermost?

# %%
# NBVAL_CHECK_OUTPUT
num_layers = 10
ways = paths([(3, 1, 0, 1)] * num_layers, 21, 0)  # 21 pixels shrink to exactly one output
offsets = torch.arange(21, dtype=torch.float64) - 10
std = ((ways * offsets**2).sum() / ways.sum()).sqrt()
print("ways at distance 0, 5, 10:", [int(ways[10 + distance]) for distance in (0, 5, 10)])
print(f"std of the ways {std:.4f}, formula {(2 / 3 * num_layers) ** 0.5:.4f}")
print(f"within two std of the middle: {ways[offsets.abs() <= 2 * std].sum() / ways.sum():.0%} of all ways")

# %% [markdown]
# The middle has 8,953 ways and the outermost pixel one. Call four standard deviations, two to either side, the **effective width**. It
# grows like the square root of the depth while the field grows like the depth.
#
# Real layers begin with random weights and end in a ReLU. The gradient at a pixel is then a sum over all ways, and each way contributes
# the product of the weights that it passes. Square that sum and take the mean: if the weights are independent with mean zero, the mixed
# terms vanish, and each way leaves the same positive amount. So the *squared* gradient is on average proportional to the number of ways.
# A ReLU closes some of the ways, at no distance more often than at another. This is the argument of Luo et al. in section 2.
#
# It predicts $\text{width} = 4\,\text{std}$ along each axis of an image. We measure it on random networks with 16 channels: the gradient
# of one output position on four random images, five networks for each depth.
#
# **Predict first.** At 40 layers the field is 81 pixels wide. How wide is the part that counts?

# %% measure="effective_width" seeds=5
def gradient_energy(num_layers, generator):
    """Squared gradient of one output of a random ReLU network, on its whole field: (field, field), sums to 1."""
    field = 2 * num_layers + 1
    pixels = torch.randn(4, 1, field, field, generator=generator).requires_grad_(True)
    x = pixels
    for _ in range(num_layers):
        weight = torch.randn(16, x.shape[1], 3, 3, generator=generator) * (2 / (9 * x.shape[1])) ** 0.5  # He et al. 2015: keeps the scale
        x = F.relu(F.conv2d(x, weight))
    direction = torch.randn(x.shape, generator=generator)  # x is (4, 16, 1, 1): a random mixture of the 16 channels
    (gradient,) = torch.autograd.grad(x, pixels, grad_outputs=direction)
    energy = gradient.square().sum((0, 1))
    return energy / energy.sum()


def effective_width(seed):
    """Four standard deviations of the gradient's energy along one axis, in pixels, for networks of 5 to 40 layers."""
    generator = torch.Generator().manual_seed(seed)
    widths = {}
    for num_layers in (5, 10, 20, 40):
        energy = gradient_energy(num_layers, generator)
        offsets = torch.arange(-num_layers, num_layers + 1.0)
        variance = ((energy.sum(0) + energy.sum(1)) / 2 * offsets**2).sum()  # mean of both axes
        widths[f"layers_{num_layers}"] = 4 * variance.item() ** 0.5
    return widths


# %% [markdown]
# The five runs are stored beside the notebook. We draw their mean and standard deviation, and repeat seed 0 here and now.

# %%
depths = torch.tensor([5, 10, 20, 40])
records = measurements.load("01_convolution_arithmetic", "effective_width")  # one dictionary a seed
runs = torch.tensor([[record[f"layers_{depth}"] for depth in depths] for record in records])  # (5 seeds, 4 depths)
mean, spread = runs.mean(0), runs.std(0)
fig, ax = plt.subplots(figsize=(6, 4))
ax.plot(depths, 2 * depths + 1, "o-", color="grey", label="receptive field")
ax.plot(depths, 4 * (2 / 3 * depths) ** 0.5, "--", color="C1", label="predicted: 4 std of the ways")
ax.errorbar(depths, mean, spread, fmt="o", capsize=4, color="C0", label="measured: mean and std of 5 networks")
ax.set(title="The field grows with depth, the used part with its root", xlabel="num_layers", ylabel="width (pixels)", ylim=(0, 85))
ax.legend()
plots.show(fig, alt="Width against layers: the field rises on a line to 81, the measured effective width on the predicted root to 21.")

# %%
live = effective_width(seed=0)
assert live["layers_40"] < 81 / 3 and live["layers_40"] < 4 * live["layers_5"]
for depth, m, s in zip(depths.tolist(), mean, spread):
    share = m / (2 * depth + 1)
    print(f"{depth:2d} layers: {m:4.1f} +- {s:.1f} pixels, {share:.0%} of the field's width, {share**2:.0%} of its area", end="; ")
    print(f"seed 0 now: {live[f'layers_{depth}']:.1f}")

# %%
energy = gradient_energy(20, torch.Generator().manual_seed(0))
fig, ax = plt.subplots(figsize=(5, 4.2))
drawn = ax.imshow(energy.sqrt() / energy.max().sqrt(), cmap="magma", extent=(-20.5, 20.5, 20.5, -20.5))
half = 2 * (2 / 3 * 20) ** 0.5
ax.add_patch(plt.Rectangle((-half, -half), 2 * half, 2 * half, fill=False, edgecolor="white", linestyle="--"))
ax.set(title="20 layers: 41 pixels wide, about 15 used", xlabel="x from the centre (pixels)", ylabel="y from the centre (pixels)")
ax.grid(False)
fig.colorbar(drawn, label="|gradient|, largest = 1")
plots.show(fig, alt="The gradient over a field of 41 by 41: bright in the middle, in a dashed square of side 15, and dark outside.")

# %% [markdown]
# Three-sided dice predict what random networks do, ReLU included. At 40 layers about a quarter of the field's width is used, 7 % of its
# area. There are two limits. These networks are untrained, and Luo et al. report that training widens the used part. And strides,
# dilations and shortcuts change the dice. What stays is a warning: a field as large as the object does not mean that the network looks at
# the object.
#
# ## What a stride throws away
#
# A stride of 2 is the same as computing every output and keeping each second one. Is the rest dropped without harm? Take a wave of
# `frequency` cycles a pixel and keep every `stride`-th sample:
#
# $$\cos(2 \pi \cdot \text{frequency} \cdot \text{stride} \cdot m), \qquad m = 0, 1, 2, \ldots$$
#
# With $f = \text{frequency} \cdot \text{stride}$ cycles from one kept sample to the next, $\cos(2 \pi f m) = \cos(2 \pi (1 - f) m)$ for
# every whole $m$: the samples cannot tell $f$ from $1 - f$. So a wave faster than $1 / (2\,\text{stride})$ cycles a pixel comes out as a
# slower one that was never there, its **alias**.
#
# **Predict first.** The frequency is 0.45, a period of 2.2 pixels. Which period, in pixels, does the wave have after stride 2?

# %%
frequency, stride = 0.45, 2
position = torch.arange(0, 41, 0.1)  # finer than the pixels, to draw the waves
m = torch.arange(21)
wave = torch.cos(2 * torch.pi * frequency * position)
kept = torch.cos(2 * torch.pi * frequency * stride * m)
alias = torch.cos(2 * torch.pi * (1 - frequency * stride) / stride * position)
fig, ax = plt.subplots(figsize=(6, 3.4))
ax.plot(position, wave, color="lightgrey", label="the signal, period 2.2")
ax.plot(position, alias, color="C1", label="its alias, period 20")
ax.plot(stride * m, kept, "o", color="C0", label="kept at stride 2")
ax.set(title="Every second sample of a fast wave is a slow wave", xlabel="position (pixels)", ylabel="value", ylim=(-1.2, 1.9))
ax.legend(ncols=3, loc="upper center", fontsize=9)
plots.show(fig, alt="A fast grey wave, blue dots on every second pixel, and a slow orange wave of period 20 that passes through all dots.")

# %% [markdown]
# A period of 20 pixels instead of 2.2. The dots lie on both waves, and no later layer can tell which of the two was there. The remedy is to
# remove what is too fast *before* the stride, with a blur, and the box filter of the first section will do. We keep every eighth pixel of a
# photograph of bricks, once as it is and once after a box of width 8. The second is what networks call average pooling.
#
# **Predict first.** The mortar between the bricks is narrower than 8 pixels. What becomes of it at stride 8 without the blur?

# %%
brick = datasets.photograph("brick")[None]  # (1, 1, 512, 512)
stride = 8
box8 = torch.full((1, 1, stride, stride), 1 / stride**2)
plain = brick[:, :, ::stride, ::stride]  # (1, 1, 64, 64)
blurred_first = F.conv2d(brick, box8, stride=stride)  # (1, 1, 64, 64)
titles = ["512 x 512", "stride 8: mortar torn", "blur, stride 8: mortar whole"]
fig = plots.image_row([brick[0], plain[0], blurred_first[0]], titles, height=2.6)
plots.show(fig, alt="A brick wall, every eighth of its pixels with the mortar torn into dashes, and the same after a blur, mortar whole.")

# %% [markdown]
# Torn lines look bad; worse is that they are unstable. Move the camera by one pixel. That is an eighth of a cell of the small picture,
# which therefore should hardly change. We measure the change between the small picture before and after, `still` and `moved`:
#
# $$\text{change} = \frac{\lVert \text{moved} - \text{still} \rVert}{\lVert \text{still} - \text{mean}(\text{still}) \rVert} .$$
#
# It is 0 for equal pictures and about $\sqrt{2} = 1.41$ for two pictures of equal mean and contrast that have nothing to do with each
# other.
#
# **Predict first.** How large is the change at stride 8 after a shift by one pixel, with and without the blur?

# %%
# NBVAL_CHECK_OUTPUT
def change(texture, blur):
    small = []
    for shift in (0, 1):
        view = texture[:, :, :504, shift : shift + 504]
        small.append(F.conv2d(view, box8, stride=stride) if blur else view[:, :, ::stride, ::stride])
    still, moved = small
    return (moved - still).norm() / (still - still.mean()).norm()


for name in ["brick", "grass", "gravel"]:
    texture = datasets.photograph(name)[None]
    print(f"{name:6s} change after one pixel: plain stride {change(texture, False):.2f}, blur first {change(texture, True):.2f}")

# %% [markdown]
# One pixel of movement takes the plainly strided grass half of the way to an unrelated picture; the blur cuts the change to less than a
# third. Networks stride in steps of 2, in convolutions as in max pooling, and alias at each of them. Zhang puts a small blur before every
# such step and reports outputs that are steadier under shifts, and better accuracy as well. The limit is plain: what the blur removes is
# gone, and a box is a poor blur that lets some of the fast waves through.
#
# ## What to take along
#
# A convolution is one weighted sum at every place where the window fits, and counting those places gives its size. What stands outside
# the image is invented, and two libraries can agree on every shape while their windows stand one pixel apart. The same sum is a sparse
# matrix that repeats the weights, whose transpose carries the gradient, and a dense product that repeats the signal, which is fast. With
# depth the pixels that an output sees grow in proportion and those it uses like the square root, and what a stride skips comes back in
# disguise.
#
# **Now the lab:** [convolution_arithmetic.ipynb](../labs/01_convolution_arithmetic/convolution_arithmetic.ipynb). There you build all this
# for batches, channels and two axes.
#
# **Open questions**
#
# 1. *Show* that a box filter needs one addition and one subtraction an output, whatever its width.
# 2. *Predict, then count* with `paths`: which three dilations let three layers of kernel size 3 see 27 pixels, each in exactly one way?
# 3. *Change and explain:* add a shortcut to `gradient_energy`, `x[:, :, 1:-1, 1:-1] + ...`, from the second layer on. Does the used part
#    grow or shrink? Which faces of the die did you change?
# 4. *Show* for which kernels the square matrix of a "same" convolution with zeros is symmetric, and what that says about its gradient.
