"""A made-up inspection of the form that the page shows, for tests that need no model."""

import numpy as np

NAMES = ["inside quotes", "place in the line", "digit"]
HOSTILE = (
    "</script><script>window.hacked = 1</script>"
    "<img src=x onerror='window.hacked = 1'>\n"
    "&lt;b&gt; \u2028 \u2029 \x00 \x1b[31m \x7f \x85 \u202e reversed \u200f \u2066 \ufeff "
    "e\u0301 \U0001f600 \t end\r\n"
    "{{data}} {{policy}} ${alert(1)} `\\u003c` \"quoted\" 'single'\n"
)
HOSTILE_NAME = "\"><img src=x onerror='window.hacked=1'>\u202e</title></script>\udcff.txt"


def vocabulary_of(text):
    return sorted(set(text) | set("abcde"))


def unit(layer, array, index):
    return {"layer": layer, "array": array, "index": index}


def found(one, *, number=False):
    clamped = {"where": None if number else 0.125, "elsewhere": 0.001}
    return {
        "unit": one, "score": 0.97, "score_first_half": 0.98, "sign": 1, "p": 0.0005,
        "clamped": clamped,
    }  # fmt: skip


def concept(name, units, why=None, *, number=False):
    return {
        "name": name,
        "kind": "number" if number else "yes/no",
        "share": None if number else 0.12,
        "measure": "R²" if number else "AUC",
        "found": [found(one, number=number) for one in units],
        "best": None,
        "why": why,
    }


def neurons(random, count, layers, hidden, units, excerpt):
    painted = [unit(1 + k % layers, "hc"[k % 2], k) for k in range(units)]
    quotes, place = painted[0::2][:3], painted[1::2][:3]
    return {
        "concepts": [
            concept(NAMES[0], quotes),
            concept(NAMES[1], place, number=True),
            concept(NAMES[2], [], "holds nowhere in this text"),
        ],
        "why": None,
        "false_alarm": 0.05,
        "tests": 42,
        "shuffles": 1680,
        "painted": [
            {**one, "low": -1.0, "high": 1.0, "values": random.uniform(-1, 1, count)}
            for one in painted
        ],
        "excerpt": {
            "characters": excerpt,
            "arrays": [
                {
                    "layer": layer, "array": array, "low": -1.0 if array in "hc" else 0.0,
                    "high": 1.0, "values": random.uniform(0, 1, (excerpt, hidden)),
                }
                for layer in range(1, layers + 1)
                for array in ("h", "c", "i", "f", "o")
            ],
        },
    }  # fmt: skip


def memory():
    contexts = [1, 2, 4, 8, 16, 32, 64, 128, 256, 1000]
    loss = [2 + 2 / n for n in contexts]
    return {
        "contexts": contexts, "loss": loss, "error": [0.05] * len(contexts), "full": 2.0,
        "reach": 64, "order": 32, "threshold": 0.01,
        "shuffled": {
            "contexts": contexts[:8], "loss": [x + 0.1 for x in loss[:8]], "error": [0.05] * 8,
            "block": 300,
        },
        "sentence": "uses about 64 characters of context, their order for about 32",
    }  # fmt: skip


def gradients(layers):
    distances = list(range(201))
    return {
        "distances": distances,
        "curves": [
            {
                "layer": layer, "array": array, "half_distance": 6, "half_distance_untrained": None,
                "trained": np.exp(-0.02 * layer * np.arange(201.0)),
                "untrained": np.exp(-0.1 * layer * np.arange(201.0)),
            }
            for layer in range(1, layers + 1)
            for array in ("h", "c")
        ],
        "clipping": {
            "bound": 1.0, "norms": np.array([0.5, 1.5, 0.8, 1.2]), "clipped": 0.5, "factor": 0.875,
            "untrained_norms": np.array([2.0, 2.5, 2.2, 2.4]),
        },
    }  # fmt: skip


def gates(random, layers, hidden):
    shut = random.uniform(0, 0.5, (layers, 3, hidden))
    return {
        "shut_below": 0.1,
        "open_above": 0.9,
        "gates": [
            {"layer": k + 1, "gate": gate, "shut": shut[k, i], "open": 0.9 - shut[k, i]}
            for k in range(layers)
            for i, gate in enumerate(("i", "f", "o"))
        ],
    }


def inspection(text, *, layers=2, hidden=7, units=4, excerpt=30, seed=3, **changes):
    """Return a made-up inspection of a text; ``changes`` take the place of whole panels."""
    random = np.random.default_rng(seed)
    count, vocabulary = len(text), vocabulary_of(text)
    chances = -np.sort(-random.dirichlet(np.ones(6), count), axis=1)[:, :5]
    bits = random.exponential(2.0, count)
    return {
        "format": 1,
        "model": {
            "name": "english", "backbone": "lstm", "num_layers": layers, "hidden_size": hidden,
            "parameters": 2123456, "vocabulary": vocabulary, "vocab_size": len(vocabulary),
            "equations": "i = sigmoid(W_ii x)\nc' = f * c + i * g",
        },
        "text": {
            "source": "play.txt", "text": text, "characters": count, "total": count + 1000,
            "notices": ["the first characters of a longer text"],
        },
        "surprise": {
            "bits": bits, "mean": float(bits.mean()), "sum": float(bits.sum()),
            "likeliest": random.integers(0, len(vocabulary), (count, 5)), "probabilities": chances,
            "most": np.argsort(-bits)[:20].tolist(),
        },
        "neurons": neurons(random, count, layers, hidden, units, min(excerpt, count)),
        "memory": memory(),
        "gradients": gradients(layers),
        "gates": gates(random, layers, hidden),
        "connectivity": {"depth": 11, "values": random.exponential(1.0, (count, 11))},
        "matching": {"codes": random.integers(-127, 128, (count, 16)).astype(np.int8)},
        **changes,
    }  # fmt: skip
