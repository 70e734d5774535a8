"""Grade submissions that nobody has to trust.

    submission  read a notebook file, whatever is in it, and decide which of its cells run
    sandbox     a warm parent in bubblewrap that forks one confined child a submission
    parent      the program inside; `confine` takes its children's powers away
    grade       one submission: cells inside, checks outside, over a channel on which nothing is believed
    judge       `Grader`: the same in a process of its own, under limits and watched from outside

Nothing in here knows nbgrader or a gradebook.
"""
