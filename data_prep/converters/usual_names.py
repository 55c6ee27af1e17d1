"""The usual names of columns, in small letters: of pictures, questions, answers and captions."""

IMAGE_NAMES = (
    "image", "images", "image_path", "picture", "file", "file_name", "filename", "path", "photo", "img", "url",
    "image_name", "imgname", "image_1", "image1", "page_1", "bild", "foto", "datei", "dateiname",
)  # fmt: skip
QUESTION_NAMES = ("question", "prompt", "query", "instruction", "text_input", "user", "problem", "prefix", "frage")
ANSWER_NAMES = (
    "answers", "answer", "multiple_choice_answer", "response", "output", "completion", "label", "text_output",
    "solution", "suffix", "correct_choice_idx", "antwort",
)  # fmt: skip
CAPTION_COLUMNS = ("caption", "text", "captions", "description", "sentences", "txt")
USUAL_NAMES = frozenset({*IMAGE_NAMES, *QUESTION_NAMES, *ANSWER_NAMES, *CAPTION_COLUMNS})
