"""The multipart form of `POST /concepts`, taken apart."""

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile

from api.domain.errors import Invalid
from api.json_bodies import refuse_repeated_keys
from api.schemas import ConceptIn


def split_form(form: FormData) -> tuple[ConceptIn, list[UploadFile]]:
    """Return the checked text fields and the files of `images`. Raises RequestValidationError for wrong fields."""
    files: list[UploadFile] = []
    fields: dict[str, str] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            if name not in ("images", "images[]"):
                raise Invalid(
                    f"the field {name[:40]!r} holds a file; send all files in the field `images`", "unknown_field"
                )
            files.append(value)
        elif name in ("images", "images[]"):
            raise Invalid("the field `images` holds text; send files (curl: -F images=@photo.jpg)", "image_count")
        elif name in fields:
            raise Invalid(f"the field {name[:40]!r} was sent twice; send it once", "repeated_field")
        else:
            fields[name] = value
    refuse_repeated_keys(fields.get("overrides", ""))
    try:
        return ConceptIn.model_validate(fields), files
    except ValidationError as error:
        raise RequestValidationError([{**e, "loc": ("body", *e["loc"])} for e in error.errors()]) from error
