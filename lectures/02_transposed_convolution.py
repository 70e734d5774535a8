# %% [markdown]
# # Transposed convolution
#
# A convolution with a stride makes a map smaller. How does a layer with weights make it larger again, and why do so many of the
# pictures that networks paint carry a fine checkerboard?
#
# **After this lecture you can** draw any transposed convolution by hand; derive it as stamps that overlap, as the transposed matrix of a
# convolution and as a convolution of a signal with zeros in between; say what `output_padding` is for; and read off a kernel whether it
# can paint a checkerboard, whether it must, and how to stop it.
#
# **You need** [lecture 01](01_convolution_arithmetic.ipynb): sizes, the matrix of a convolution, im2col. **Time:** about 75 minutes.
#
# **Sources**
#
# - Dumoulin and Visin, [A guide to convolution arithmetic for deep learning](https://arxiv.org/abs/1603.07285), 2016: chapter 4.
# - Odena, Dumoulin and Olah, [Deconvolution and checkerboard artifacts](https://distill.pub/2016/deconv-checkerboard/), Distill 2016:
#   "Deconvolution & Overlap", "Overlap & Learning", "Better Upsampling".
# - Zeiler and Fergus, [Visualizing and understanding convolutional networks](https://arxiv.org/abs/1311.2901), ECCV 2014: section 2.1,
#   "Unpooling".
# - Long, Shelhamer and Darrell, [Fully convolutional networks for semantic segmentation](https://arxiv.org/abs/1411.4038), CVPR 2015:
#   section 3.3.
# - Shi et al., [Real-time single image and video super-resolution](https://arxiv.org/abs/1609.05158), CVPR 2016: section 2.2, and the note
#   [Is the deconvolution layer the same as a convolutional layer?](https://arxiv.org/abs/1609.07009), 2016.
# - Aitken et al., [Checkerboard artifact free sub-pixel convolution](https://arxiv.org/abs/1707.02937), 2017.

# %% tags=["setup"]
import functools
import itertools

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

from course_lib import datasets, measurements, plots

# %% [markdown]
# ## Making a map larger without weights
#
# A label for every pixel, a coloured photograph, a picture out of noise: whenever the answer is an image, a network has to turn a small
# map into a large one. Every value of the small map then becomes several cells of the large one. What do we write into them?
#
# Two plain answers for a factor of 2. **Nearest** copies the value into all its cells. A **bed of nails** writes it into the first and
# leaves the others zero. Both can be said in one sentence: multiply a small pattern, the **stamp**, by each value, and print the results
# side by side. That is what `kron`, the Kronecker product, does.
#
# **Predict first.** Write down both answers for the values 1, 3, 2.

# %%
# NBVAL_CHECK_OUTPUT
x = torch.tensor([1.0, 3, 2])
for name, stamp in [("nearest", [1.0, 1]), ("bed of nails", [1.0, 0])]:
    print(f"{name:12s} stamp {stamp} -> {torch.kron(x, torch.tensor(stamp)).int().tolist()}")

# %% [markdown]
# After pooling there is a third answer. Max pooling keeps the largest value of each window and forgets where it stood. If we note the
# place, which Zeiler and Fergus call a **switch**, the value can go back to where it came from. This is **max un-pooling**. PyTorch's
# pooling hands out the switches as positions in the signal.
#
# **Predict first.** The signal is 2, 5, 1, 0, 3, 4, 9, 7 and the windows hold two cells. What comes back?

# %%
# NBVAL_CHECK_OUTPUT
signal = torch.tensor([2.0, 5, 1, 0, 3, 4, 9, 7])
values, switches = F.max_pool1d(signal[None], 2, return_indices=True)  # (1, 4) both
unpooled = torch.zeros(8)
unpooled[switches[0]] = values[0]
print("pooled:   ", values[0].int().tolist(), " switches:", switches[0].tolist())
print("nails:    ", torch.kron(values[0], torch.tensor([1.0, 0])).int().tolist())
print("unpooled: ", unpooled.int().tolist())

# %% [markdown]
# As many zeros as with nails, but each value stands where it was. A bed of nails is un-pooling whose switches all point to the first cell.
# Does it matter? We pool a handwritten digit from 8 × 8 to 4 × 4, bring it back in three ways, and then compare the three with the
# original over all 1,797 digits.

# %%
images, labels = datasets.digits()  # (1797, 1, 8, 8), 0..1
pooled, switches = F.max_pool2d(images, 2, return_indices=True)  # (1797, 1, 4, 4), positions counted row by row
corners = (8 * 2 * torch.arange(4)[:, None] + 2 * torch.arange(4)).expand_as(switches)  # first cell of each window
ways = {
    "nearest": F.interpolate(pooled, scale_factor=2, mode="nearest"),
    "bed of nails": F.max_unpool2d(pooled, corners, 2),
    "max un-pooling": F.max_unpool2d(pooled, switches, 2),
}
fig = plots.image_row([images[5, 0], pooled[5, 0], *(way[5, 0] for way in ways.values())],
                      ["digit", "max pool", "nearest", "nails", "un-pooling"], height=1.75)
fig.suptitle("Only un-pooling remembers where the stroke ran", x=0.01, ha="left")
plots.show(fig, alt="A five, its pooled version, blocks from nearest, a grid of dots from nails, dots along the stroke from un-pooling.")

# %%
# NBVAL_CHECK_OUTPUT
for name, way in ways.items():
    print(f"{name:14s} mean distance to the digits {(way - images).abs().mean():.3f}")

# %% [markdown]
# Un-pooling comes closest to the original, and it should be: the switches carry knowledge that the small map has lost. It works only where
# there was a pooling layer to ask. Nails and nearest need nobody, but neither of them can learn anything. For that, the stamp itself has
# to become a weight.
#
# ## Stamps that overlap
#
# Let the stamp be any `kernel`, of any size. Input $i$ multiplies the kernel and prints it `stride` cells after its predecessor. Where the
# kernel is larger than the stride, neighbouring stamps overlap, and there we **add**:
#
# $$\text{output}[i \cdot \text{stride} + j] \mathrel{+}= x[i]\; \text{kernel}[j] .$$
#
# This is the **transposed convolution**. The loop is over inputs: while a convolution gathers for each output, this one scatters from
# each input.
#
# **Predict first.** Take $x = (1, 3, 2)$, the kernel (1, 2, 4) and stride 2. Write the three stamps below each other, each two cells to
# the right of the one before, and add up the columns.

# %%
# NBVAL_CHECK_OUTPUT
def stamp1d(x, kernel, stride):
    kernel_size = len(kernel)
    output = x.new_zeros((len(x) - 1) * stride + kernel_size)
    for i in range(len(x)):
        output[i * stride : i * stride + kernel_size] += x[i] * kernel
    return output


kernel, stride = torch.tensor([1.0, 2, 4]), 2
print("stamps:", [(value * kernel).int().tolist() for value in x])
print("added: ", stamp1d(x, kernel, stride).int().tolist())
print("torch: ", F.conv_transpose1d(x[None, None], kernel[None, None], stride=stride)[0, 0].int().tolist())

# %% [markdown]
# The 7 is $1 \cdot 4 + 3 \cdot 1$, the end of the first stamp and the beginning of the second. The drawing you made is worth keeping,
# because it is the whole operation. Here it is again in colours, for two strides.

# %%
fig, axes = plt.subplots(2, 1, figsize=(6, 4.6), sharex=True, sharey=True)
for ax, step in zip(axes, (2, 1)):
    bottom = torch.zeros(7)
    for i in range(3):
        cells = torch.arange(3) + i * step
        ax.bar(cells, x[i] * kernel, bottom=bottom[cells], color=f"C{i}", label=f"{int(x[i])} × kernel")
        bottom[cells] += x[i] * kernel
    ax.set(title=f"stride {step}: {2 * step + 3} outputs", ylabel="output", ylim=(0, 20))
axes[0].legend(ncols=3, loc="upper left")
axes[1].set_xlabel("output cell")
fig.suptitle("One stamp for each input, added where they overlap")
plots.show(fig, alt="Stacked bars of three coloured stamps: two cells apart over seven cells at stride 2, one apart over five at stride 1.")

# %% [markdown]
# For drawing by hand you need one more habit. `padding` means the opposite of what it meant for a convolution: it **cuts** that many cells
# off both ends of the drawing. We will see why in a moment.
#
# The table of all stamps is the product of the column $x$ and the row `kernel`, no loop needed. What remains is to add each entry where it
# belongs. That step has a name, **fold** or col2im: it runs im2col of lecture 01 backwards. A matrix product and a fold is how it is
# computed fast, and how you will compute it in the lab.

# %%
# NBVAL_CHECK_OUTPUT
stamps = torch.outer(x, kernel)  # (3 inputs, 3 cells of a stamp)
print(stamps.int().tolist())
folded = F.fold(stamps.T[None], output_size=(1, 7), kernel_size=(1, 3), stride=(1, 2))  # a signal as an image of one row
print("folded:", folded.flatten().int().tolist())

# %% [markdown]
# ## The matrix, transposed
#
# Why the name? Write the strided convolution of lecture 01 as a matrix. With kernel size 3 and stride 2 it reads 7 cells and writes 3
# outputs. Row $i$ holds the kernel from column $i \cdot \text{stride}$ on. A row lists the cells that output $i$ reads.
#
# Now lay the matrix on its side. Column $i$ of the transposed matrix holds the kernel from row $i \cdot \text{stride}$ on: it lists the
# cells that input $i$ *writes*. That is our stamp.
#
# **Predict first.** Which rows of the transposed matrix hold two weights, and which weights?

# %%
# NBVAL_CHECK_OUTPUT
matrix = torch.zeros(3, 7)
for i in range(3):
    matrix[i, i * stride : i * stride + 3] = kernel
print("matrix.T:\n", matrix.T.int())
print("matrix.T @ x:", (matrix.T @ x).int().tolist())

# %%
fig, axes = plt.subplots(1, 2, figsize=(6, 3.9), width_ratios=[7, 3])
plots.heat_map(axes[0], matrix, cmap="Blues", limits=(0, 5))
plots.heat_map(axes[1], matrix.T, cmap="Oranges", limits=(0, 5))
axes[0].set(title="convolution: 7 cells → 3", xlabel="cell it reads", ylabel="output")
axes[1].set(title="transposed: 3 → 7", xlabel="input", ylabel="cell it writes")
fig.suptitle("A row that reads becomes a column that writes")
plots.show(fig, alt="A 3 by 7 matrix with the kernel 1, 2, 4 in each row, two columns apart, and its transpose, kernels down the columns.")

# %% [markdown]
# Rows 2 and 4 of the transposed matrix hold two weights each, a 4 and a 1: there two stamps overlap. Same numbers as before, so the layer
# deserves its name. Lecture 01 met this matrix as the way a gradient runs back. We return to that below.
#
# The matrix also explains `padding`. A convolution with padding 1 reads one invented cell on either side of its signal. Its transpose
# writes to these cells as well, but they do not exist, so what it writes there is thrown away.
#
# ## Zeros in between
#
# Both views say what an input does. The third view asks what an output receives. Output $m$ gets $\text{kernel}[j]\;x[i]$ whenever
# $i \cdot \text{stride} + j = m$. Put `stride - 1` zeros between the inputs, so that $\text{spread}[i \cdot \text{stride}] = x[i]$. Then
# the sum runs over all cells $t$ of `spread`, the zeros do no harm, and
#
# $$\text{output}[m] = \sum_{t} \text{spread}[t]\; \text{kernel}[m - t] .$$
#
# The kernel is read backwards: in the words of lecture 01 this is the true convolution, hence the cross-correlation with the flipped
# kernel. The first output sees only the first input, so the window must stick out by `kernel_size - 1` cells, filled with zeros.
#
# **Predict first.** Write down `spread` with its border for our example. How many of its cells are not zero?

# %%
# NBVAL_CHECK_OUTPUT
spread = torch.zeros((len(x) - 1) * stride + 1)
spread[::stride] = x
bordered = F.pad(spread, (len(kernel) - 1, len(kernel) - 1))
output = F.conv1d(bordered[None, None], kernel.flip(0)[None, None])[0, 0]
print("with border:", bordered.int().tolist())
print("output:     ", output.int().tolist())

# %% [markdown]
# Three of nine. The window moves in steps of one over a signal whose values stand two apart. In terms of the input it moves by half a cell,
# and so the layer is also called **fractionally strided**. It is a good way to think and a wasteful way to compute. Inside, one cell in
# `stride` is not zero along an axis, one in $\text{stride}^2$ on an image, and all other multiplications are with zero.
#
# So far we left out padding. Cutting cells off both ends of the output means that the window starts later and stops earlier: the border is
# $\text{kernel\_size} - 1 - \text{padding}$ cells wide. Do the three views and the library agree in general? We try a box of settings on
# random numbers.

# %%
# NBVAL_CHECK_OUTPUT
def three_views(x, kernel, stride, padding):
    n, kernel_size = len(x), len(kernel)
    stamped = stamp1d(x, kernel, stride)
    size = len(stamped)
    matrix = torch.zeros(n, size)
    for i in range(n):
        matrix[i, i * stride : i * stride + kernel_size] = kernel
    spread = torch.zeros((n - 1) * stride + 1)
    spread[::stride] = x
    border = kernel_size - 1 - padding  # below zero: F.pad cuts
    correlated = F.conv1d(F.pad(spread, (border, border))[None, None], kernel.flip(0)[None, None])[0, 0]
    return stamped[padding : size - padding], (matrix.T @ x)[padding : size - padding], correlated


generator = torch.Generator().manual_seed(0)
agreed = tried = 0
for n, kernel_size, step, padding in itertools.product((4, 5), (2, 3, 4, 5), (1, 2, 3), (0, 1, 2)):
    a, b = torch.randn(n, generator=generator), torch.randn(kernel_size, generator=generator)
    library = F.conv_transpose1d(a[None, None], b[None, None], stride=step, padding=padding)[0, 0]
    tried += 1
    agreed += all(torch.allclose(view, library, atol=1e-5) for view in three_views(a, b, step, padding))
print(f"{agreed} of {tried} settings: stamps, matrix and zeros in between agree with the library")

# %% [markdown]
# ## Sizes, and what `output_padding` is for
#
# The drawing gives the size. The last of $n$ stamps starts at $(n - 1) \cdot \text{stride}$ and is `kernel_size` long; padding cuts
# twice:
#
# $$\text{size} = (n - 1) \cdot \text{stride} + \text{kernel\_size} - 2\,\text{padding} .$$
#
# The transpose of a convolution should have the size of that convolution's input. There is a catch. Recall the $\lfloor\;\rfloor$ in the
# formula of lecture 01.
#
# **Predict first.** A convolution with kernel size 3, stride 2 and padding 1 returned 4 cells. How many did it read?

# %%
# NBVAL_CHECK_OUTPUT
kernel_size, stride, padding = 3, 2, 1
for n in range(6, 11):
    size = F.conv1d(torch.ones(1, 1, n), torch.ones(1, 1, kernel_size), stride=stride, padding=padding).shape[-1]
    print(f"convolution: {n:2d} cells -> {size}", " <- this one" * (size == 4))
print("transposed:   4 cells ->", (4 - 1) * stride + kernel_size - 2 * padding)

# %% [markdown]
# It may have been 7 or 8. In general `stride` different sizes lead to the same output, because the rest of the division is dropped. The
# transposed layer cannot know which, so it takes the smallest, and we have to tell it the rest:
#
# $$\text{size} = (n - 1) \cdot \text{stride} + \text{kernel\_size} - 2\,\text{padding} + \text{output\_padding},
# \qquad 0 \le \text{output\_padding} < \text{stride} .$$
#
# This is relationship 14 of Dumoulin and Visin, who call the rest $a$. (Dilation takes the place that it had in lecture 01; the lab asks
# for it.) The name misleads: nothing is padded. The drawing is cut later at its end.
#
# **Predict first.** Our example $x = (1, 3, 2)$ with padding 1: which number appears when `output_padding` goes from 0 to 1? And without
# padding?

# %%
# NBVAL_CHECK_OUTPUT
for padding, output_padding in [(0, 0), (0, 1), (1, 0), (1, 1)]:
    output = F.conv_transpose1d(x[None, None], kernel[None, None], stride=2, padding=padding, output_padding=output_padding)[0, 0]
    print(f"padding {padding}, output_padding {output_padding}: {output.int().tolist()}")

# %% [markdown]
# With padding 1 the 8 comes back, a cell that padding had cut. Without padding no stamp reaches that far and the new cell is zero (in a
# layer, it is the bias).
#
# ## A gradient, and not an inverse
#
# Lecture 01 ended its matrix with the gradient: if a convolution computes $\text{matrix} \cdot \text{signal}$, then a gradient at its
# output becomes $\text{matrix}^\top g$ at its input. So the backward pass of a convolution is a transposed convolution, and the backward
# pass of a transposed convolution is a convolution. One line of algebra says the same without a word about gradients. For every signal
# and every $y$ of the size of the output,
#
# $$\langle \text{conv}(\text{signal}),\ y \rangle = y^\top\, \text{matrix}\ \text{signal}
# = \langle \text{signal},\ \text{transposed}(y) \rangle .$$
#
# It is the **adjoint identity**, and it is the best test there is for a transposed convolution, because it needs no loop and no formula:
# random numbers on both sides. We try it with everything switched on: two images, three channels, unequal sizes.
#
# **Predict first.** The convolution turns 3 channels into 5, so its weight is `(5, 3, 3, 4)`. Which shape does the weight of its transpose
# have?

# %%
# NBVAL_CHECK_OUTPUT
pictures = torch.randn(2, 3, 9, 13, generator=generator, dtype=torch.float64).requires_grad_(True)
weight = torch.randn(5, 3, 3, 4, generator=generator, dtype=torch.float64)  # (C_out, C_in, kernel height, kernel width)
down = F.conv2d(pictures, weight, stride=2, padding=1)
y = torch.randn(down.shape, generator=generator, dtype=torch.float64)
rest = [(n + 2 * 1 - k) % 2 for n, k in zip((9, 13), (3, 4))]  # what the floor dropped along each axis
up = F.conv_transpose2d(y, weight, stride=2, padding=1, output_padding=rest)
(gradient,) = torch.autograd.grad(down, pictures, grad_outputs=y)
print("output_padding:", rest, " sizes:", tuple(pictures.shape), "->", tuple(down.shape), "->", tuple(up.shape))
print("<conv(x), y> = <x, transposed(y)>:", torch.allclose((down * y).sum(), (pictures * up).sum()))
print("gradient of conv = transposed:    ", torch.allclose(gradient, up))

# %% [markdown]
# The very same tensor. As a weight of the convolution its axes are (out, in); the transpose reads it from the other end, so for
# `conv_transpose2d` they are (in, out). That is where PyTorch's order comes from.
#
# Papers also say **deconvolution**. The word promises an inverse: down with a convolution, up with its transpose, and the signal is back.
#
# **Predict first.** Seven readings, 1 to 7, go through our kernel (1, 2, 4) at stride 2 and back through its transpose. Does a scaled copy
# of 1 to 7 come out?

# %%
# NBVAL_CHECK_OUTPUT
readings = torch.arange(1.0, 8)
there = matrix @ readings
back = matrix.T @ there
print("there:", there.int().tolist())
print("back: ", back.int().tolist())

# %% [markdown]
# The shape is back, the readings are not, and no factor turns one into the other. To be fair we also try the kindest kernel we know, a
# box of 8 × 8 pixels with all weights 1/8 at stride 8. Its stamps do not overlap and have length one, so nothing gets mixed up.

# %%
# NBVAL_CHECK_OUTPUT
camera = datasets.photograph("camera")[None, :, 60:220, 200:360]  # (1, 1, 160, 160)
box = torch.full((1, 1, 8, 8), 1 / 8)
mosaic = F.conv_transpose2d(F.conv2d(camera, box, stride=8), box, stride=8)
print(tuple(camera.shape), "->", tuple(mosaic.shape), f" error / contrast: {(mosaic - camera).std() / camera.std():.2f}")

# %%
fig = plots.image_row([camera[0], mosaic[0]], ["photograph", "there and back"], height=2.5)
fig.suptitle("The shape comes back, the picture does not", x=0.01, ha="left")
plots.show(fig, alt="A photographer's head and camera, and the same as a mosaic of squares, each with the mean of its pixels.")

# %% [markdown]
# Even then only the mean of each square returns. Could some cleverer pair of kernel and transpose do it? You will answer that in the lab,
# in writing. Until then: a transposed convolution restores shapes.
#
# ## How many stamps hit a cell?
#
# Look at the coloured bars again. With kernel size 3 and stride 2 every second cell is hit by two stamps, the others by one. Odena,
# Dumoulin and Olah made this **overlap** known as a cause of checkerboards. To count the hits, use the layer itself: ones as input, ones
# as kernel.
#
# **Predict first.** For which pairs of kernel size and stride are all cells hit equally often, apart from the two ends?

# %%
# NBVAL_CHECK_OUTPUT
for kernel_size, stride in [(3, 2), (4, 2), (5, 2), (4, 3), (6, 3), (2, 3)]:
    hits = stamp1d(torch.ones(6), torch.ones(kernel_size), stride).int().tolist()
    print(f"kernel {kernel_size}, stride {stride}: {hits}")

# %% [markdown]
# When the stride divides the kernel size. If not, `kernel_size % stride` of every `stride` cells get one stamp more, and a kernel smaller
# than the stride leaves cells empty, as the nails did. On an image both axes count, and the hits multiply: a cell that two stamps reach
# along either axis is hit by four.

# %%
fig, axes = plt.subplots(1, 3, figsize=(6.4, 2.7))
for ax, (kernel_size, stride) in zip(axes, [(3, 2), (5, 2), (4, 2)]):
    along = stamp1d(torch.ones(5), torch.ones(kernel_size), stride)
    hits = torch.outer(along, along)  # the two axes multiply
    ax.imshow(hits, cmap="Blues", vmin=0, vmax=9)
    ax.set(title=f"kernel {kernel_size}: hits {int(hits[4:-4, 4:-4].min())} to {int(hits[4:-4, 4:-4].max())}", xticks=[], yticks=[])
fig.suptitle("Stride 2: a checkerboard unless 2 divides the kernel size", x=0.01, ha="left")
plots.show(fig, alt="Three maps of hits: a strong checkerboard for kernel 3, a weaker one for kernel 5, and an even plane for kernel 4.")

# %% [markdown]
# In the middle the hits run from 1 to 4 with kernel 3, from 4 to 9 with kernel 5; with kernel 4 they are 4 everywhere. So is a kernel size
# that the stride divides the cure?
#
# ## Play with it
#
# Before we answer, print some stamps yourself. The numbers on the right are the output, and the bluer a cell, the more stamps lie on it.
# The black frame is what `padding` and `output_padding` leave. Drag a slider, or click into a box and press the arrow keys.
#
# **Predict first**, then try:
#
# 1. Print the stamps one by one. Which cell changes its colour most often?
# 2. Input and kernel of ones, all nine stamps: go through the kernel sizes 1 to 4 at stride 2, then at stride 3.
# 3. Go back to kernel size 3 and stride 2, and change the kernel from ones to binomial: (1, 2, 1) along each axis. The colours stay. What do
#    the numbers in the middle do?

# %%
from course_lib import explore

explore.transposed.show()

# %% [markdown]
# The explorer needs a running kernel. These three frames stand for it where there is none.

# %%
plots.show(explore.transposed.strip(), alt="""Input, newest stamp and output at stride 2, three times. Two stamps of kernel size 3 share one
    column of cells. All nine stamps of ones: kernel size 3 leaves 1, 2 or 4 stamps on a cell in a grid, kernel size 4 leaves 4 on every
    cell in the middle.""")

# %% [markdown]
# The third experiment is the surprise: with the binomial kernel the stamps overlap as unevenly as before, and all the same every number in
# the middle is a 4. Counting stamps is not enough.
#
# ## What a constant becomes
#
# Kernels are not made of ones. Let us find out for any kernel whether it paints a checkerboard. The test is a constant input, all ones,
# far from the ends: a wall, a patch of sky. The output should be constant as well. Cell $m$ receives `kernel[j]` for every $j$ that
# has the same remainder as $m$ when divided by the stride. So there are only `stride` different outputs, one for each remainder
# $r$, which we call a **phase**:
#
# $$\text{phase\_sums}[r] = \sum_{j\, \equiv\, r \,(\mathrm{mod}\ \text{stride})} \text{kernel}[j],
# \qquad r = 0, \ldots, \text{stride} - 1 .$$
#
# A kernel leaves a constant constant exactly if its phase sums are equal. With ones as weights this is the count of hits.
#
# **Predict first.** Stride 2 and the kernels (1, 2, 1), (1, 3, 3, 1) and (1, 3, 2, 1). Which of them paint stripes on a wall?

# %%
# NBVAL_CHECK_OUTPUT
def phase_sums(kernel, stride):
    return torch.stack([kernel[phase::stride].sum(0) for phase in range(stride)])


for weights in [(1.0, 2, 1), (1.0, 3, 3, 1), (1.0, 3, 2, 1)]:
    wall = stamp1d(torch.ones(6), torch.tensor(weights), 2)
    print(f"{[int(w) for w in weights]}: sums {phase_sums(torch.tensor(weights), 2).int().tolist()}, wall {wall[3:-3].int().tolist()}")

# %% [markdown]
# Only the last, and it has the "good" size 4. The first has the "bad" size 3 and paints a clean wall. Size alone decides nothing. What,
# then, is the risk when the weights are random, as they are when training starts? We draw 10,000 kernels of each size with standard normal
# weights, and note how far apart the two phase sums are.
#
# **Predict first.** Which size is worse at the start, 3 or 4?

# %%
# NBVAL_CHECK_OUTPUT
for kernel_size in (2, 3, 4, 6):
    kernels = torch.randn(kernel_size, 10_000, generator=generator)
    sums = phase_sums(kernels, 2)  # (2, 10000): slices and sums along the first axis, all kernels at once
    gap = (sums[0] - sums[1]).square().mean().sqrt()
    print(f"kernel {kernel_size}: typical gap between the phase sums {gap:.2f}")

# %% [markdown]
# The gap is a sum of `kernel_size` independent weights, some with a minus sign, so its typical size is $\sqrt{\text{kernel\_size}}$:
# 1.41, 1.73, 2.00 and 2.45, up to chance. At the start of training a size of 4 is no better than 3, it is slightly worse. That the stride
# divides the kernel size means one thing only: an even kernel leaves an even wall. Checkerboards are no longer *forced*. They are still
# *allowed*.
#
# What the gap looks like on a photograph: we halve a part of it, bring it back with three kernels along both axes, and scale each kernel
# so that the mean brightness stays.

# %%
face = camera[:, :, 46:110, 20:84]  # (1, 1, 64, 64)
small = F.avg_pool2d(face, 2)  # (1, 1, 32, 32)
large = []
for weights in [(1.0, 1, 1), (1.0, 3, 2, 1), (1.0, 3, 3, 1)]:
    kernel1d = torch.tensor(weights) * 2 / sum(weights)  # the two phase sums have mean 1
    large.append(F.conv_transpose2d(small, torch.outer(kernel1d, kernel1d)[None, None], stride=2, padding=1)[0])
fig = plots.image_row(large, ["(1, 1, 1), sums 2:1", "(1, 3, 2, 1), sums 3:4", "(1, 3, 3, 1), equal"], height=2.2)
fig.suptitle("Unequal phase sums lie over the picture like a net", x=0.01, ha="left")
plots.show(fig, alt="A face under a dark grid for the kernel of ones, under a faint grid for 1, 3, 2, 1, and smooth for 1, 3, 3, 1.")

# %% [markdown]
# The pattern is brightest where the picture is bright: it is a product of the two. In a network the picture is a feature map, and the loss
# has to notice the pattern and push the phase sums together, channel by channel.
#
# ## A kernel that interpolates
#
# The last kernel was no accident. Suppose we want linear interpolation: an output between two inputs is their mean, weighted by nearness.
# Each input then counts fully at its own place and less and less towards its neighbours, where it counts nothing. Seen from the input
# that is a stamp in the form of a **tent**. Treat a value as a cell of width `stride` in the large picture. The centre of the first one
# lies at
#
# $$\text{centre} = \frac{\text{stride} - 1}{2}, \qquad
# \text{tent}[m] = \max\left(0,\ 1 - \frac{|m - \text{centre}|}{\text{stride}}\right) .$$
#
# **Predict first.** Stride 2: compute the four weights that are not zero, and their phase sums.

# %%
# NBVAL_CHECK_OUTPUT
stride = 2
centre = (stride - 1) / 2
m = torch.arange(-3.0, 5)
tent = (1 - (m - centre).abs() / stride).clamp(min=0)
kernel = tent[tent > 0]
print("m:   ", m.int().tolist())
print("tent:", tent.tolist(), " phase sums:", phase_sums(kernel, stride).tolist())

# %% [markdown]
# Quarters: (1, 3, 3, 1) / 4, and each output's weights add up to 1. The tent starts one cell before the value's own two cells, so the
# layer needs padding 1. Then it should agree with the library's `interpolate`, at least away from the ends.

# %%
# NBVAL_CHECK_OUTPUT
x = torch.tensor([1.0, 3, 2, 6])
ours = F.conv_transpose1d(x[None, None], kernel[None, None], stride=2, padding=1)[0, 0]
library = F.interpolate(x[None, None], scale_factor=2, mode="linear", align_corners=False)[0, 0]
print("ours:   ", ours.tolist())
print("library:", library.tolist())

# %% [markdown]
# Only the first and the last value differ. The stamp of a neighbour is missing there, while the library repeats the border cell. Two axes
# take the product of two tents, **bilinear** interpolation. Long, Shelhamer and Darrell began the upsampling layers of their networks for
# segmentation this way: as a sensible interpolation, from where training may go on. In the lab you build the kernel for any factor,
# odd ones included.
#
# ## Resize, then convolve
#
# Odena and colleagues suggest something more robust: resize first, say by nearest, then apply an ordinary convolution of stride 1. Is
# that another kind of layer? Nearest is a stamp of ones of size `stride`. The convolution afterwards turns each 1 of this stamp into a
# small stamp of its own, the flipped `weight` as every impulse does, and adds them. So both steps together are one transposed convolution,
# and its kernel is a transposed convolution itself:
#
# $$\text{kernel} = \text{transposed}(\text{ones},\ \text{flipped weight}), \quad \text{with stride 1} .$$
#
# **Predict first.** For stride 2 and the weight (1, 2, 4): compute the kernel and its phase sums.

# %%
# NBVAL_CHECK_OUTPUT
weight = torch.tensor([1.0, 2, 4])
kernel = stamp1d(torch.ones(2), weight.flip(0), 1)
resized = F.conv1d(torch.tensor([1.0, 1, 3, 3, 2, 2, 6, 6])[None, None], weight[None, None], padding=1)[0, 0]  # nearest, then weight
ours = F.conv_transpose1d(x[None, None], kernel[None, None], stride=2, padding=1)[0, 0]
print("kernel:", kernel.int().tolist(), " phase sums:", phase_sums(kernel, 2).int().tolist())
print("resize, convolve:", resized.int().tolist())
print("one transposed:  ", ours.int().tolist())

# %% [markdown]
# The phase sums are equal, 7 and 7, and they always will be: every weight is printed once into each phase. A resize-convolution *is* a
# transposed convolution, of kernel size 4 with only three free weights, chosen so that it cannot paint a checkerboard on a wall. It cannot
# do so before training, during training or after.
#
# ## Pixel shuffle: the same map in another order
#
# Go to the other extreme and give each phase its own weights. Cell $m$ of phase $r$ only ever meets `kernel[r]`, `kernel[r + stride]`,
# ... So each phase is a small convolution of the *input*, with every `stride`-th weight, flipped. Compute all phases as channels of one
# ordinary convolution, and interleave them. That is the sub-pixel convolution of Shi et al., and the interleaving is called **pixel
# shuffle**.
#
# **Predict first.** Kernel (1, 2, 4, 8) at stride 2: which two kernels of size 2 does the ordinary convolution use?

# %%
# NBVAL_CHECK_OUTPUT
kernel = torch.tensor([1.0, 2, 4, 8])
phase_kernels = torch.stack([kernel[phase::2].flip(0) for phase in range(2)])  # (2 phases, 2 weights)
phases = F.conv1d(x[None, None], phase_kernels[:, None], padding=1)[0]  # (2 phases, 5)
print("phase kernels:", phase_kernels.int().tolist())
print("phases:       ", phases.int().tolist())
print("interleaved:  ", phases.T.flatten().int().tolist())
print("transposed:   ", stamp1d(x, kernel, 2).int().tolist())

# %% [markdown]
# The same numbers, and no inserted zero is ever multiplied. What the layer can express has not changed. Mind how sizes are counted: a
# convolution of 3 × 3 with four phases is a transposed convolution with a kernel of 6 × 6 and stride 2. It
# inherits the checkerboards too, as its phases start as independent random numbers. Aitken et al. start all phases with equal weights
# instead. Then the layer begins as nearest interpolation of a convolution, and the phase sums are equal on the first day.
#
# ### Variant card: three conventions that no error message guards
#
# | question | PyTorch | elsewhere |
# | --- | --- | --- |
# | kernel 3, stride 2, $n$ to $2n$: which cell is cut? | `padding=1, output_padding=1`: the first | 'SAME' in [TensorFlow][tf]: the last |
# | resize: what stays in place? | borders of the image ([default][interpolate]) | centres of the corner pixels (`align_corners=True`) |
# | order of the weight's channel axes | [(in, out)][convt]; `conv2d`: (out, in) | [TensorFlow][tf]: (out, in), after height and width |
#
# [tf]: https://www.tensorflow.org/api_docs/python/tf/nn/conv2d_transpose
# [interpolate]: https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.interpolate.html
# [convt]: https://docs.pytorch.org/docs/stable/generated/torch.nn.ConvTranspose2d.html
#
# The first row follows from lecture 01: 'SAME' pads an even signal behind and not in front, and the transpose cuts where the convolution
# padded. All three pass unnoticed, the third as soon as there are as many channels coming in as going out.
#
# **Predict first.** Order the three by the damage they do.

# %%
# NBVAL_CHECK_OUTPUT
def apart(a, b):
    return ((a - b).norm() / (b - b.mean()).norm()).item()


three = torch.outer(torch.tensor([1.0, 2, 1]), torch.tensor([1.0, 2, 1]))[None, None] / 4
drawing = F.conv_transpose2d(small, three, stride=2)[0, 0]  # (65, 65): nothing cut
layer = torch.randn(8, 8, 3, 3, generator=generator)
features = torch.randn(1, 8, 16, 16, generator=generator)
print(f"first or last cell cut: {apart(drawing[:-1, :-1], drawing[1:, 1:]):.2f} of the contrast")
corners = F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=True)
borders = F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False)
print(f"align_corners:          {apart(corners, borders):.2f} of the contrast")
swapped = F.conv_transpose2d(features, layer.transpose(0, 1), stride=2)
print(f"channel axes swapped:   {apart(swapped, F.conv_transpose2d(features, layer, stride=2)):.2f} of the contrast")

# %% [markdown]
# Swapped axes give a picture that has nothing to do with the right one: unrelated and of equal contrast means about 1.4, as lecture 01
# explained. The other two are shifts, by one pixel everywhere and by up to half a pixel towards the borders.
#
# ## Do trained networks paint checkerboards?
#
# So far we have argued with constants and random weights. Training may repair the phase sums, or it may not. We let small
# networks double the size of photographs, and measure. First we have to say what is measured.
#
# Take the error, output minus true picture, in a window of 32 × 32 pixels, and average it over all pixels with the same phase along both
# axes. That leaves a small `pattern` of `stride` × `stride` numbers. Whatever has nothing to do with the phases averages out, up to a rest
# by chance. The checkerboard is the deviation of the pattern from its mean:
#
# $$\text{checkerboard}^2 = \text{mean over windows of } \operatorname{var}(\text{pattern}) .$$
#
# By Parseval's theorem this variance is the power of the error at the multiples of the stride frequency, $1 / \text{stride}$ cycles a
# pixel along one axis or both, the constant part left out. We check that on noise with a checkerboard of 2 grey levels (of 255) added.
#
# **Predict first.** The noise has a standard deviation of 10 grey levels. Does it drown the checkerboard?

# %%
# NBVAL_CHECK_OUTPUT
def checkerboard(error, stride=2, window=32):
    """Root of the mean power at the multiples of the stride frequency; error (N, 1, H, W), result in the unit of the error."""
    cut = error[:, 0].unfold(1, window, window).unfold(2, window, window)  # (N, rows, columns, window, window)
    cut = cut.reshape(-1, window // stride, stride, window // stride, stride)
    pattern = cut.mean((1, 3))  # (windows, stride, stride)
    return pattern.var((1, 2), unbiased=False).mean().sqrt()


noise = 10 * torch.randn(100, 1, 32, 32, generator=generator)
sign = 1 - 2 * ((torch.arange(32)[:, None] + torch.arange(32)) % 2)  # (32, 32): +1 and -1 in turn
spectrum = torch.fft.fft2(noise[:, 0] + 2 * sign).abs().square() / 32**4
power = (spectrum[:, 16, 0] + spectrum[:, 0, 16] + spectrum[:, 16, 16]).mean()  # 16 of 32 is half a cycle a pixel
print(f"noise alone {checkerboard(noise):.2f}, with the checkerboard {checkerboard(noise + 2 * sign):.2f}, by FFT {power.sqrt():.2f}")

# %% [markdown]
# It does not: 0.53 without, 2.05 with, and both ways to compute it agree. Remember the 0.53. A window without any checkerboard does not
# measure zero, and photographs have fine texture of their own.
#
# **The contest.** Every network has one 3 × 3 convolution from 1 to 16 channels, a ReLU, and a layer that doubles the size, from 16
# channels to one grey picture. Since all five layers are transposed convolutions, we only have to say how the kernel is made:
#
# | name | kernel | free weights a channel | at the start |
# | --- | --- | --- | --- |
# | transposed 3 | 3 × 3 | 9 | random |
# | transposed 4 | 4 × 4 | 16 | random |
# | bilinear start | 4 × 4 | 16 | a random number times the bilinear tent |
# | resize | 4 × 4, nearest and a weight of 3 × 3 as above | 9 | random |
# | pixel shuffle | 6 × 6, four phases of 3 × 3 | 36 | random |
#
# They learn from crops of four photographs, halved by averaging. Two more photographs serve to choose the learning rate, and four that
# nothing was chosen on give the numbers.

# %%
def crops(names):
    grey = [datasets.photograph(name).mean(0) for name in names]
    return torch.cat([photo.unfold(0, 64, 64).unfold(1, 64, 64).reshape(-1, 1, 64, 64) for photo in grey])


training, validation = crops(["china", "astronaut", "cat", "grass"]), crops(["coffee", "gravel"])
test = crops(["rocket", "camera", "coins", "flower"])
torch.set_num_threads(1)  # for maps as small as these, two threads wait for each other longer than they work
walls = torch.linspace(0.1, 0.9, 5)[:, None, None, None].expand(5, 1, 64, 64)  # five plain greys
print("crops of 64 x 64:", len(training), "to learn,", len(validation), "to choose,", len(test), "to report")

# %% [markdown]
# Here is the layer: `free` is what it learns, `kernel` what it prints with. Stamps of odd size get the `output_padding` that makes the
# result exactly twice as large. At the start the random weights are scaled so that all five begin with outputs of like size.

# %%
CHANNELS = 16
FREE_SIZE = {"transposed 3": 3, "transposed 4": 4, "bilinear start": 4, "resize": 3, "pixel shuffle": 6}


def start(name, generator):
    size = FREE_SIZE[name]
    if name == "bilinear start":
        tent = torch.tensor([0.25, 0.75, 0.75, 0.25])
        return torch.randn(CHANNELS, 1, 1, 1, generator=generator) / CHANNELS**0.5 * torch.outer(tent, tent)
    weights_an_output = CHANNELS * size**2 / (1 if name == "resize" else 4)  # a stamp at stride 2 gives a quarter to each phase
    return torch.randn(CHANNELS, 1, size, size, generator=generator) / weights_an_output**0.5


def double(features, free, name):
    kernel = F.conv_transpose2d(free, torch.ones(1, 1, 2, 2)) if name == "resize" else free
    kernel_size = kernel.shape[-1]
    return F.conv_transpose2d(features, kernel, stride=2, padding=(kernel_size - 1) // 2, output_padding=kernel_size % 2)


def network(small, weights, name):
    first, first_bias, free, bias = weights
    features = F.relu(F.conv2d(small - 0.5, first, first_bias, padding=1))  # (N, 16, H, W)
    return double(features, free, name) + bias + 0.5

# %% [markdown]
# Training is the usual loop with the mean squared error and Adam, written out because it is short. All contestants see the same crops in
# the same order, 400 steps of 16 crops, and the learning rate falls on a line to zero. We keep the weights after 1, 10, 30, 100 and 400
# steps.

# %%
@functools.cache  # training twice with the same arguments would give the same weights
def train(name, seed, lr, num_steps=400):
    generator = torch.Generator().manual_seed(seed)
    order = torch.Generator().manual_seed(seed)
    first = torch.randn(CHANNELS, 1, 3, 3, generator=generator) * (2 / 9) ** 0.5  # He et al. 2015, for the ReLU
    weights = [first, torch.zeros(CHANNELS), start(name, generator), torch.zeros(1)]
    for weight in weights:
        weight.requires_grad_(True)
    means, squares = ([torch.zeros_like(weight) for weight in weights] for _ in range(2))
    kept = {}
    for step in range(1, num_steps + 1):
        top, left = torch.randint(33, (2,), generator=order)
        large = training[torch.randint(len(training), (16,), generator=order), :, top : top + 32, left : left + 32]
        loss = (network(F.avg_pool2d(large, 2), weights, name) - large).square().mean()
        gradients = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            for weight, gradient, mean, square in zip(weights, gradients, means, squares):
                mean.lerp_(gradient, 0.1)  # Adam (Kingma and Ba 2015, algorithm 1) with betas 0.9 and 0.99
                square.lerp_(gradient**2, 0.01)
                unbiased = (mean / (1 - 0.9**step), square / (1 - 0.99**step))
                weight -= lr * (1 - step / num_steps) * unbiased[0] / (unbiased[1].sqrt() + 1e-8)
        if step in (1, 10, 30, 100, num_steps):
            kept[step] = [weight.detach().clone() for weight in weights]
    return kept

# %% [markdown]
# Two measurements with five seeds each are stored. The first chooses the learning rate by the error on the validation photographs, in
# grey levels. The second takes the checkerboard of the error on the test photographs, and of the answer to plain grey walls. It looks at
# the middle 32 × 32 pixels of each crop, where no invented border cell reaches.

# %% measure="learning_rates" seeds=5
def learning_rates(seed):
    """Root mean squared error on the validation photographs after training, in grey levels, for three learning rates."""
    found = {}
    for name, lr in itertools.product(FREE_SIZE, (0.01, 0.03, 0.1)):
        errors = network(F.avg_pool2d(validation, 2), train(name, seed, lr)[400], name) - validation
        found[f"{name}, {lr}"] = 255 * errors.square().mean().item() ** 0.5
    return found

# %% measure="checkerboards" seeds=5
def checkerboards(seed):
    """Checkerboard on test photographs and on walls, and root mean squared error, in grey levels, by number of steps."""
    found = {}
    for name in FREE_SIZE:
        for step, weights in train(name, seed, 0.03).items():
            errors = (network(F.avg_pool2d(test, 2), weights, name) - test)[:, :, 16:-16, 16:-16]
            answers = network(F.avg_pool2d(walls, 2), weights, name)[:, :, 16:-16, 16:-16]
            found[f"{name}, {step}, photo"] = 255 * checkerboard(errors).item()
            found[f"{name}, {step}, wall"] = 255 * checkerboard(answers).item()
            found[f"{name}, {step}, error"] = 255 * errors.square().mean().item() ** 0.5
    return found

# %%
# NBVAL_CHECK_OUTPUT
choices = measurements.load("02_transposed_convolution", "learning_rates")
for name in FREE_SIZE:
    errors = {lr: torch.tensor([record[f"{name}, {lr}"] for record in choices]) for lr in (0.01, 0.03, 0.1)}
    print(f"{name:14s} validation error", ", ".join(f"{lr}: {e.mean():4.1f} ± {e.std():.1f}" for lr, e in errors.items()))

# %% [markdown]
# The learning rate 0.03 is the best of the three for every contestant, so all get it.
#
# **Predict first.** Which layers paint a checkerboard on a plain wall after 30 steps? Which after 400? And which of the five has the
# smallest error in the end?

# %%
records = measurements.load("02_transposed_convolution", "checkerboards")
steps = [1, 10, 30, 100, 400]


def measured(name, what):
    return torch.tensor([[record[f"{name}, {step}, {what}"] for step in steps] for record in records])  # (5 seeds, 5 steps)


middle = slice(16, -16)
plain = F.interpolate(F.avg_pool2d(test, 2), scale_factor=2, mode="bilinear") - test
floor = 255 * checkerboard(plain[:, :, middle, middle])
fig, axes = plt.subplots(1, 2, figsize=(7.6, 4), sharey=True)
for ax, what in zip(axes, ("wall", "photo")):
    for name, marker in zip(FREE_SIZE, "osD^v"):
        values = measured(name, what)
        if values.max() > 1e-3:  # zero has no place on a logarithmic axis
            (line,) = ax.loglog(steps, values.mean(0), marker=marker, markersize=5, label=name)
            ax.plot(steps, values.T, ".", markersize=3, color=line.get_color(), alpha=0.5)
        else:
            ax.plot([], [], marker=marker)  # keeps the colours in step
    ax.set(title=f"on {'plain walls (resize: 0)' if what == 'wall' else 'test photographs'}", xlabel="training steps", ylim=(0.1, 200))
    ax.set_xticks(steps, steps)
    ax.minorticks_off()
axes[1].axhline(floor, color="grey", linestyle="--", label="bilinear, no weights")
axes[0].set_ylabel("checkerboard (grey levels of 255)")
axes[1].legend(fontsize=8)
fig.suptitle("Strong at first, nearly gone after 400 steps, never on walls with resize")
plots.show(fig, alt="Checkerboard against steps: random starts fall from 40 to 70 grey levels to about 1; the bilinear start peaks near 3.")

# %%
live = checkerboards(seed=0)
assert live["resize, 400, wall"] < 1e-3 and live["transposed 4, 30, wall"] > 2 * live["transposed 4, 400, wall"]
for step in (30, 400):
    print(f"after {step} steps".ljust(15) + "wall         photo        error         share of power  seed 0 now: wall, photo")
    for name in FREE_SIZE:
        wall, photo, error = (measured(name, what)[:, steps.index(step)] for what in ("wall", "photo", "error"))
        row = "  ".join(f"{values.mean():5.2f} ± {values.std():4.2f}" for values in (wall, photo, error))
        now = f"{live[f'{name}, {step}, wall']:5.2f}, {live[f'{name}, {step}, photo']:5.2f}"
        print(f"{name:14s} {row}  {(photo / error).square().mean():6.1%}         {now}")
error = 255 * plain[:, :, middle, middle].square().mean().sqrt()
print(f"bilinear interpolation, no weights: photo {floor:.2f}, error {error:.2f}")

# %% [markdown]
# All in grey levels of 255, mean and standard deviation over five seeds; the share is that of the checkerboard in the power of the error on
# the photographs. How it looks, for seed 0 and a test picture:

# %%
crop = test[79:80]
shown = [crop[0]]
for step, name in itertools.product((30, 400), ("transposed 4", "resize")):
    shown.append(network(F.avg_pool2d(crop, 2), train(name, 0, 0.03)[step], name)[0])
titles = ["photograph", "transposed 4,\n30 steps", "resize,\n30 steps", "transposed 4,\n400 steps", "resize,\n400 steps"]
fig = plots.image_row(shown, titles, height=1.75)
fig.suptitle("Trained briefly, one layer paints a net and the other does not", x=0.01, ha="left")
plots.show(fig, alt="A face: after 30 steps under a fine grid with transposed 4, smooth with resize; after 400 steps both are clean.")

# %% [markdown]
# **Early** the answer is clear. After 30 steps the three random starts paint about 7 grey levels on a plain wall, the sizes 3 and 4 and the
# pixel shuffle alike, and about a fifth to a quarter of their error's power on photographs is checkerboard. The bilinear start
# begins without one, but training moves its weights: 2 grey levels. The resize paints nothing on walls, as it must, and what it leaves on
# photographs, 0.54, is near the 0.45 of an interpolation without weights: the texture of the pictures themselves.
#
# **In the end** there is little left to see. After 400 steps all layers are at about 1 grey level or below. Kernel size 3 is worst with
# 0.94 on walls against 0.34 for size 4, more than the spread. Whether its uneven overlap is to blame or its smaller number of weights,
# this contest cannot tell. The two layers with 16 weights have the smallest error, but all five lie between 6.7 and 6.9, and plain
# interpolation is at 7.4: to be safe from checkerboards cost the resize 0.2 grey levels against the best.
#
# So at this scale a checkerboard is a matter of the start and of patience. Our loss compares pixel by pixel and sees the pattern on
# every wall. Odena and colleagues show pictures of trained generative networks and of style transfer that still carry theirs. There the
# loss is itself a network, and upsampling layers are stacked. Do not conclude from our small contest that patience always helps.
#
# What to do, in order of safety: resize and convolve; or start with equal phase sums, by the tent or by equal phases; or at the least
# choose a kernel size that the stride divides. And look at your network's answer to a grey wall.
#
# ## What to take along
#
# A transposed convolution prints a stamp for each input and adds where stamps overlap; this is the transposed matrix of a convolution,
# and a plain convolution of the input with zeros in between. It returns the shape of what a convolution read, up to a rest that
# `output_padding` names, and it returns the gradient, but never the signal. Its answer to a constant is one number for each phase, the
# sum of the weights of that phase, and unequal sums are a checkerboard, whatever the kernel size. Nearest, bilinear, resize-convolution
# and pixel shuffle are all transposed convolutions that differ in how they tie these weights.
#
# **Now the lab:** [transposed_convolution.ipynb](../labs/02_transposed_convolution/transposed_convolution.ipynb). There you build the layer
# in three ways for batches, channels and two axes, and cure a checkerboard.
#
# **Open questions**
#
# 1. *Show* that resizing by linear interpolation and then convolving also gives a kernel with equal phase sums, away from the ends.
# 2. *Predict, then count* with `stamp1d`: two layers of kernel size 3 and stride 2 on top of each other, all ones. Which hits repeat, and
#    with which period?
# 3. *Change and explain:* start the pixel shuffle in `start` with equal phases, as Aitken et al. do (`repeat_interleave` helps). Does its
#    checkerboard on walls stay at zero?
# 4. *Predict, then compute:* the gradient of the sum of all outputs of a convolution with kernel size 3 and stride 2, with respect to its
#    input. What does it mean for a network that learns through it?
