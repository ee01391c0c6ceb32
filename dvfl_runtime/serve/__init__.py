"""A page in the browser that shows what a headless device sees and recognises.

`address` listens, `state` holds what the page shows, `pictures` its pictures and `desk` the buttons
that record clips, `app` answers requests, and `server` runs all of it in a thread of its own:
recognition never waits for a browser.
"""
