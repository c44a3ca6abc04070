"""The recurrences: plain functions over explicit weights."""

from dslstm_jax.recurrence.batch_norm import Statistics
from dslstm_jax.recurrence.ds_lstm import DSLSTMStatistics, DSLSTMWeights, ds_lstm
from dslstm_jax.recurrence.lstm import LSTMState, LSTMWeights, lstm, lstm_stack

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
