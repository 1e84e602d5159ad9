"""Homework: from the instructor's notebooks to what students get, and to a course that nbgrader can grade.

`release` writes the students' notebooks, `course` a whole course folder of nbgrader. The instructor's notebooks, with
solutions and hidden tests, lie in a checkout of the course alone (`notebooks/homework`), never in an installation.
"""

from ._course import assignments, course, release, wheel
from ._feedback import feedback_preprocessors, release_preprocessors

__all__ = ["assignments", "course", "feedback_preprocessors", "release", "release_preprocessors", "wheel"]
