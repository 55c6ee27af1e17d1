"""A picture that cannot be read costs its record, not the run."""

from patches.edits import Replace
from patches.series import Import, Kind, Patch

PATCH = Patch(
    kind=Kind.MEND,
    origin="haotian-liu/LLaVA#1618, #601, #546 (problem 26)",
    why="A missing or cut-off picture ended one rank in the middle of a run, and the others waited for it.",
    not_outside="The picture is opened in the middle of the data set's method.",
    drop_when="upstream goes on with another record",
    edits=(
        Replace(
            "llava/train/train.py",
            "LazySupervisedDataset.__getitem__",
            find="image = Image.open(os.path.join(image_folder, image_file)).convert('RGB')",
            put="""
                image = pictures.open_or_note(os.path.join(image_folder, image_file))
                if image is None:
                    return self[(i + 1) % len(self)]
            """,
        ),
    ),
    proven_by="test_alive_training.py::test_a_lost_picture_gives_way_to_the_next_record",
    imports=(Import("llava/train/train.py", "LazySupervisedDataset.__getitem__", ("pictures",)),),
)
