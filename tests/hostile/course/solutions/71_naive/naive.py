# %% [markdown]
# # A lab whose checks trust too much
#
# They count to a number that a submission returned, here and not in the sandbox. The grader has to survive its own checks.

# %% tags=["setup"]
from course_lib.checks import Lab, expect_equal

lab = Lab("71_naive")

# %% [markdown]
# ## Exercise 1: name a number (4 points, 5 minutes)
#
# Complete `small_number`: it returns 3.
#
# <details><summary>Hint 1</summary>
#
# A number.
#
# </details>
#
# <details><summary>Hint 2</summary>
#
# Three.
#
# </details>

# %% exercise="small_number"
def small_number() -> int:
    """3."""
    ### BEGIN SOLUTION
    secret_three = 3
    return secret_three
    ### END SOLUTION


# %% check="small_number" points=4
@lab.check("small_number", points=1)
def before(small_number):
    """It answers."""
    small_number()


@lab.check("small_number", points=2)
def counted(small_number):
    """As many as it says."""
    total = 0
    for _ in range(small_number()):
        total += 1
    expect_equal(total, 3, "counting")
    expect_equal(len(b"x" * small_number()), 3, "as bytes")


@lab.check("small_number", points=1)
def after(small_number):
    """It answers again."""
    small_number()


# %% mistake="small_number" hint="One too many."
def small_number():
    return 4
