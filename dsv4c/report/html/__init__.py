"""The report as one HTML file that needs no server and no network."""
