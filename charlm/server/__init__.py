"""The models of some runs behind HTTP: a page to write with, and an interface for programs.

It needs starlette and uvicorn (``pip install 'charlm[serve]'``), and no torch.
"""
