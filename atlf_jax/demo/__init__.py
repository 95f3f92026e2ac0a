"""A local page on which to try networks: ``trial`` computes, ``server`` answers the browser, ``page.html`` shows."""
