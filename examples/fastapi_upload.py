"""A web service that takes a video and answers with its actions.

pip install fastapi uvicorn
uvicorn fastapi_upload:app
curl --data-binary @video.mp4 -H "Content-Type: video/mp4" http://127.0.0.1:8000/actions
"""

from typing import Annotated, Any

from fastapi import Body, FastAPI, HTTPException

from dvfl_runtime import DvflError, Recognizer

app = FastAPI()
recognizer = Recognizer()  # one for all requests; it may be called from several threads


@app.post("/actions")
def actions(video: Annotated[bytes, Body(media_type="video/mp4")]) -> list[dict[str, Any]]:
    """Recognise the actions of one video."""
    try:
        return [segment.to_dict() for segment in recognizer.segments(video)]
    except DvflError as err:  # no video, a damaged one
        raise HTTPException(422, str(err)) from err
