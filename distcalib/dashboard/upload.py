"""The button that uploads a file, in parts, into the session's folder; the server holds it to the limit."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import panel as pn
import param

from distcalib.errors import InputError

#: Bytes of a part, and the most that one message of a browser may have.
PART = 2 << 20
LARGEST_MESSAGE = 8 << 20
Loaded = Callable[[Path, str], Coroutine[Any, Any, None]]

_SCRIPT = """
export function render({ model }) {
  const box = document.createElement("label")
  const title = document.createElement("span")
  title.textContent = model.label
  const input = document.createElement("input")
  input.type = "file"
  const note = document.createElement("small")
  note.setAttribute("role", "status")
  let file = null, id = 0, sent = 0
  async function part() {
    const bytes = await file.slice(sent, sent + model.part).arrayBuffer()
    const message = {id, name: file.name, start: sent, size: file.size, data: bytes}
    sent += bytes.byteLength
    model.send_msg(message)
  }
  input.addEventListener("change", () => {
    if (!input.files.length) return
    file = input.files[0]; id = Math.floor(Math.random() * 2 ** 40); sent = 0
    note.textContent = "uploading"
    part()
  })
  model.on("answer", () => {
    if (!file || model.answer.id !== id) return
    if (model.answer.trouble) { note.textContent = "not taken"; file = null; input.value = "" }
    else if (sent < file.size) { note.textContent = Math.floor(100 * sent / file.size) + " %"; part() }
    else { note.textContent = "uploaded"; file = null; input.value = "" }
  })
  box.append(title, input, note)
  return box
}
"""
_STYLE = """
label { display: block; border: 1px dashed #6e7781; border-radius: 6px; padding: .6rem .8rem;
  font: 14px/1.5 system-ui, sans-serif; }
span { display: block; font-weight: 600; margin-bottom: .3rem; }
input { max-width: 100%; font: inherit; }
small { margin-left: .4rem; color: #57606a; }
"""


class Upload(pn.custom.JSComponent):
    """A button for one file; call `on_file` after making it.

    A file's name is only what it is called. It is written under a name of our own, part after part, and what
    is longer than allowed, or comes in another order, is refused and removed.
    """

    label = param.String()
    part = param.Integer(default=PART)
    answer = param.Dict(default={})

    _esm = _SCRIPT
    _stylesheets = [_STYLE]  # noqa: RUF012

    def on_file(
        self, folder: Path, most: int, loaded: Loaded, failed: Callable[[InputError], object]
    ) -> Upload:
        """Let `loaded` be called with each whole file and what it is called, `failed` with what is wrong."""
        taken = _Taken(folder, most)

        def take(event: Any) -> None:
            try:
                whole = taken.take(event.data)
            except InputError as error:
                self.answer = {"id": taken.id, "trouble": str(error)}
                failed(error)
                return
            self.answer = {"id": taken.id, "start": taken.written}
            if whole is not None:
                pn.state.execute(partial(loaded, whole, taken.name))

        self.on_msg(take)
        return self


class _Taken:
    """The file that is on its way."""

    def __init__(self, folder: Path, most: int) -> None:
        self.folder, self.most = folder, most
        self.id, self.name, self.written, self.size = 0, "", 0, 0
        self.path: Path | None = None

    def take(self, message: Any) -> Path | None:
        """Add a part; return the file when it is whole."""
        match message:
            case {
                "id": int(number),
                "name": str(name),
                "start": int(start),
                "size": int(size),
                "data": bytes(data),
            }:
                pass
            case _:
                raise InputError("is no part of a file", place="upload")
        if start == 0:
            self._forget()
            self.id, self.name, self.written, self.size = number, name[:200], 0, size
            self.path = self.folder / f"upload-{uuid4().hex}"
        if self.path is None or number != self.id or start != self.written:
            self._forget()
            raise InputError("came in another order; upload it again", place=name[:200])
        if max(size, self.written + len(data)) > self.most:
            self._forget()
            raise InputError(
                "is too large", place=name[:200], value=f"{size / 2**20:,.1f} MiB",
                expected=f"at most {self.most / 2**20:,.1f} MiB (distcalib dashboard --max-upload)",
            )  # fmt: skip
        with self.path.open("ab") as opened:
            opened.write(data)
        self.written += len(data)
        if self.written < self.size:
            return None
        whole, self.path = self.path, None
        return whole

    def _forget(self) -> None:
        if self.path is not None:
            self.path.unlink(missing_ok=True)
        self.path = None
