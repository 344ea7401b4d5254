"""The interactive dashboard: people's own tables calibrated in a browser, and run folders looked at.

The room's way: `server` and `hosts` say who may reach it and end it cleanly; `app` makes the page of one
browser session, whose state is `session`. `upload` takes files, `tables` reads them, `problem` joins a survey
and targets, `work` is what workers do for it and `running` the buttons that begin and cancel that. The tabs
are `loading`, `checking`, `calibrating` and `results`; `charts` and `tabulated` draw. `run_view` shows a run
folder. Nothing else in the package imports panel.
"""
