"""What a net has learned, as figures: the package behind ``charlm inspect``.

    reading.py        a text read once: surprisal, likeliest characters, states
    concepts.py       what holds at which character of a text: inside quotes, the place in the line
    neurons.py        which units follow a concept, confirmed on text that they were not chosen on
    memory.py         the loss against the length of the context, and against its order
    gradients.py      how far gradients reach back, and what clipping does (torch)
    connectivity.py   how much each earlier character counted for a prediction (torch)
    matching.py       places of a text whose states resemble each other
    panels.py         each of these as a dict
    report.py         all of it for one text
    page.py, pages/   the same as one page of HTML

It needs a model and a text, never a run folder, and knows nothing of the command line.
"""
