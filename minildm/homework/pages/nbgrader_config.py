"""Settings of nbgrader for the homework of minildm. `nbgrader` reads this file in the folder it is started in."""

from minildm.homework import feedback_preprocessors, release_preprocessors

c = get_config()  # noqa: F821 (nbgrader defines it)

c.CourseDirectory.course_id = "minildm"

# How `nbgrader zip_collect` reads the names of what was handed in. In Moodle's downloads they are, as folders or files,
#   Ada Lovelace_4711_assignsubmission_file/1_touching_cells.ipynb
# and a zip in there, such as 7_project.zip, is opened first: the folder that this makes is passed over. For another
# platform change the expression: it must hold student_id and file_id, and it is matched from the beginning of a path.
c.FileNameCollectorPlugin.named_regexp = (
    r"(?!.*__MACOSX)"  # what macOS adds to each zip
    r".*[/\\](?P<student_id>[^/\\]+)_\d+_assignsubmission_file[_/\\]+"
    r"(?:\d_\w+[/\\])*(?P<file_id>.+)"
)
# By default nothing but notebooks is collected. A project reads pictures, and their captions, when it is graded. Its
# report opens painters, saved as folders of .json and .safetensors.
c.FileNameCollectorPlugin.valid_ext = [".ipynb", ".png", ".jpg", ".jpeg", ".webp", ".PNG", ".JPG", ".txt", ".csv"]
c.FileNameCollectorPlugin.valid_ext += [".json", ".safetensors"]

# What stands in a student's notebook in place of a solution.
c.ClearSolutions.code_stub = {"python": 'raise NotImplementedError("write it here")'}
c.ClearSolutions.text_stub = "*Write your answer here.*"
# Where hidden tests are taken out of a cell, the empty lines before them go, too.
c.GenerateAssignment.preprocessors = release_preprocessors()

# Students' programs run with these limits, in seconds. A cell that takes longer is interrupted and earns nothing.
c.Execute.timeout = 600
c.Execute.startup_timeout = 120
c.Execute.iopub_timeout = 60  # what a busy machine may take until an interrupted cell has stopped
# A warning is no mistake: without this, a test that passes earns nothing where something was printed to stderr.
c.IgnorePattern.enabled, c.IgnorePattern.pattern = True, r"(?s)."
# A test cell that a student deleted comes back.
c.OverwriteCells.add_missing_cells = True

# Feedback shows neither the hidden tests nor tracebacks that lead through them.
c.GenerateFeedback.preprocessors = feedback_preprocessors()
