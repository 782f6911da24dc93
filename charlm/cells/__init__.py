"""The recurrences, one file a family. A new one is a file here and a line in ``CELLS``."""

from charlm.cells.attention import Attention as Attention
from charlm.cells.base import Cell as Cell
from charlm.cells.base import Parameter as Parameter
from charlm.cells.gru import GRU as GRU
from charlm.cells.linear import MinGRU as MinGRU
from charlm.cells.linear import MinLSTM as MinLSTM
from charlm.cells.lstm import LSTM as LSTM
from charlm.cells.rnn import RNN as RNN

CELLS: dict[str, type[Cell]] = {
    "rnn": RNN,
    "lstm": LSTM,
    "gru": GRU,
    "mingru": MinGRU,
    "minlstm": MinLSTM,
}
