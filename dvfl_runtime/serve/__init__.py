"""A page in the browser that shows what a headless device sees and recognises.

`address` listens, `cards` holds what is known of each source, `app` answers requests, and `server`
runs it all in a thread of its own: recognition never waits for a browser.
"""
