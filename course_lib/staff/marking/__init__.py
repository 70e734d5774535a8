"""What happens around grading: from a folder of submissions to a gradebook, tables and pages; and from a lab to what students get.

    run          `course grade` and `course report`: three phases, each of which can be killed and started again
    release      `course release`: the folder that students get, and the due date
    assignment   a lab as the things that get marks
    submissions  who submitted what, and when
    record       what became of one submission; how each item stands
    journal      records on disk, one JSON line a submission; the lock and the secret of a course
    workers      submissions on processes of this machine; `cluster`: on Dask workers
    gradebook    marks in nbgrader's gradebook, by its own interface
    late         what a late submission costs
    autograded   the notebooks that formgrader shows, and `clean`, which takes the danger out of written answers
    tables       marks.csv
    feedback     a page a student; `report`, a page a class; both drawn with `pages` and `pictures`, on numbers of `statistics` and
    `similarity`

The core (`course_lib.staff.grading`) runs submissions and knows nothing of all this.
"""
