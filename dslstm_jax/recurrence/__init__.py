"""The recurrences: plain functions over explicit weights."""

from dslstm_jax.ops.normalization import Statistics
from dslstm_jax.recurrence.ds_lstm import DSLSTMStatistics, DSLSTMWeights, ds_lstm
from dslstm_jax.recurrence.lstm import lstm, lstm_stack
from dslstm_jax.recurrence.lstm_cell import LSTMState, LSTMWeights

__all__ = [
    "DSLSTMStatistics",
    "DSLSTMWeights",
    "LSTMState",
    "LSTMWeights",
    "Statistics",
    "ds_lstm",
    "lstm",
    "lstm_stack",
]
