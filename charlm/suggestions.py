"""What somebody may have meant by a verb, a flag or an argument that charlm does not have."""

from collections.abc import Collection
from difflib import get_close_matches

# The flags of charlm, and what other programs call the same. Of a verb that does not have the
# first flag for a word, the next one counts.
FLAGS = {
    "--backbone": "cell cell-type model model-type rnn rnn-type type arch architecture",
    "--num-layers": "layers layer n-layers n-layer num-layer nlayers depth",
    "--hidden-size": "hidden rnn-size units num-units n-hidden nhid hidden-dim hidden-units width",
    "--embedding-size": "embedding embed embed-size emb-size embedding-dim emsize n-embd",
    "--tie-weights": "tied tie tied-weights",
    "--nonlinearity": "activation",
    "--weight-drop": "recurrent-dropout dropconnect",
    "--epochs": "epoch num-epochs n-epochs max-epochs",
    "--steps": "iters iterations max-iters max-steps num-steps n-steps updates epoch num-epochs",
    "--minutes": "time max-time duration budget",
    "--learning-rate": "lr rate eta learn-rate lrate",
    "--decay-steps": "lr-decay lr-decay-steps lr-decay-iters decay cooldown",
    "--warmup-steps": "warmup warmup-iters",
    "--batch-size": "batch batchsize bs bsz minibatch lanes",
    "--seeds": "num-seeds n-seeds repeats",
    "--backbones": "cells models",
    "--seq-length": "seq-len seqlen sequence-length bptt block-size context context-length window",
    "--grad-clip": "clip clip-grad clip-norm max-grad-norm max-norm gradient-clip",
    "--eval-every": "eval-interval eval-steps val-every",
    "--save-every": "save-interval save-steps checkpoint-every",
    "--validation-fraction": "validation val-fraction val-frac val-split val-ratio valid",
    "--optimizer": "optim opt",
    "--device": "gpu cuda cpu mps gpuid",
    "--precision": "dtype amp fp16 bf16 half",
    "--threads": "num-threads n-threads workers num-workers jobs",
    "--seed": "random-seed manual-seed random-state",
    "--init-from": "init resume-from pretrained finetune checkpoint load",
    "--out": "output out-dir output-dir save-dir checkpoint-dir save name",
    "--text": "data file input corpus",
    "--length": "len max-length max-new-tokens num-chars chars characters words size",
    "--temperature": "temp t heat",
    "--num-samples": "n samples num number count num-texts",
    "--best-of": "best beam num-beams beams candidates",
    "--prompt": "start primer primetext prime text seed-text prefix input context",
    "--prompt-file": "start-file primer-file input-file file",
    "--top-k": "k topk",
    "--top-p": "p topp nucleus",
    "--min-p": "minp",
    "--save-state": "state save",
    "--load-state": "state load",
    "--starts-with": "start-with startswith begin prefix",
    "--unique": "distinct no-repeat",
    "--by-line": "lines per-line line-by-line",
    "--rank": "sort ranked order",
    "--color": "colour",
    "--concept": "pattern regex concepts",
    "--unit": "units neuron neurons",
    "--all": "full long verbose details",
}
VERBS = {
    "train": "fit learn new",
    "resume": "continue restart",
    "generate": "sample write complete gen text predict",
    "score": "rank surprisal",
    "evaluate": "eval test validate loss perplexity",
    "overlap": "memorized memorised memorization memorize copied novelty",
    "inspect": "visualize visualise analyze analyse explain neurons activations",
    "compare": "versus benchmark",
    "plot": "draw curves chart graph",
    "export": "convert onnx",
    "info": "show describe details status",
    "list": "ls runs dir models",
    "corpus": "download fetch data texts",
    "completion": "completions complete-shell autocomplete autocompletion tab shell",
    "compress": "zip gzip xz zstd pack encode",
    "decompress": "unzip gunzip unxz unpack uncompress decode extract",
    "serve": "server web http api webui ui play",
}
# The commands of an interactive session of "generate".
COMMANDS = {
    "/again": "retry another regenerate reroll",
    "/undo": "back revert",
    "/show": "print all text",
    "/save": "write export",
    "/settings": "set options config parameters",
    "/help": "h ? commands",
    "/quit": "q exit bye leave",
}

# The values of settings, and what other programs call the same.
VALUES = {
    "cuda": "gpu nvidia",
    "float32": "fp32 single",
    "bfloat16": "bf16",
    "float16": "fp16 half",
}


def nearest_flag(word: str, flags: Collection[str]) -> str:
    """Return the words that suggest one of the flags of a verb for an unknown one, or nothing.

    >>> nearest_flag("--layers", ["--num-layers", "--dropout"])
    '; did you mean --num-layers?'
    """
    return _did_you_mean(word.lstrip("-").replace("_", "-"), FLAGS, flags)


def nearest_argument(word: str, names: Collection[str]) -> str:
    """Return the words that suggest one of the arguments of a function for an unknown one.

    >>> nearest_argument("layers", ["num_layers", "dropout"])
    "; did you mean 'num_layers'?"
    """
    flags = {f"--{name.replace('_', '-')}": name for name in names}
    found = _meant(word.replace("_", "-"), FLAGS, flags)
    return "" if found is None else f"; did you mean {flags[found]!r}?"


def nearest_verb(word: str, verbs: Collection[str]) -> str:
    """Return the words that suggest one of the verbs for an unknown one, or nothing.

    >>> nearest_verb("sample", ["train", "generate"])
    '; did you mean generate?'
    """
    return _did_you_mean(word, VERBS, verbs)


def nearest_command(word: str, commands: Collection[str]) -> str:
    """Return the words that suggest one of the commands of a game for an unknown one, or nothing.

    >>> nearest_command("/temp", ["/quit", "/temperature"])
    '; did you mean /temperature?'
    """
    others = COMMANDS | {f"/{flag[2:]}": words for flag, words in FLAGS.items()}
    return _did_you_mean(word.lstrip("/"), others, commands)


def nearest_value(word: str, values: Collection[str]) -> str:
    """Return the words that suggest one of the values of a setting for an unknown one, or nothing.

    >>> nearest_value("gpu", ["cpu", "cuda"])
    "; did you mean 'cuda'?"
    """
    found = _meant(word, VALUES, values)
    return "" if found is None else f"; did you mean {found!r}?"


def _did_you_mean(word: str, others: dict[str, str], known: Collection[str]) -> str:
    found = _meant(word, others, known)
    return "" if found is None else f"; did you mean {found}?"


def _meant(word: str, others: dict[str, str], known: Collection[str]) -> str | None:
    """Look the word up among what others call it, then among words that are spelt like it."""
    word = word.lower()
    same = [name for name, words in others.items() if name in known and word in words.split()]
    spelt = {name.lstrip("-/"): name for name in known}
    close = [spelt[name] for name in get_close_matches(word, spelt, n=1)]
    return next(iter([*same, *close]), None)
