"""The interactive dashboard: people's own tables calibrated in a browser, and run folders looked at.

The room's way: `server` says who may reach it and ends it cleanly; `app` makes the page of one browser
session. `run_view` shows a run folder. Nothing else in the package imports panel.
"""
