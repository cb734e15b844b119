"""A tiny model and a text beside it: what functions of the package and programs are both asked about."""
import random_models

TEXT = "".join(f"line {i} of a text that nobody wrote, {i * i}\n" for i in range(60))


def write(folder):
    """The model's path; the text is the file "text" beside it."""
    (folder / "text").write_text(TEXT)
    return random_models.write(str(folder), "smollm3")
