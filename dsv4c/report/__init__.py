"""Views: plain documents (dicts that are ready for JSON) over plans, checkpoints and this machine.

A view computes and never prints; the command line renders it as text or JSON.
"""
