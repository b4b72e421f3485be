"""Run the prediction network of a transducer: an LSTM over the emitted tokens, one at a time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from export.stages.adapters import Adapters, project
from export.stages.layers import in_type_of

PROJECTOR = "decoder.decoder_projector"
"""Name of the last layer in the checkpoint."""


class Predictor(nn.Module):
    """One step of the LSTM prediction network, with flat state: output, then h and c per layer."""

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        self.embedding = decoder.embedding
        self.projector = decoder.decoder_projector
        self.hidden_size = decoder.lstm.hidden_size
        self.num_layers = decoder.lstm.num_layers
        self.gates = nn.ModuleList(
            _lstm_gates(decoder.lstm, layer) for layer in range(self.num_layers)
        )

    def forward(self, token: Tensor, state: Tensor, adapters: Adapters | None = None) -> Tensor:
        """Token int64 [B], state float32 [B, (1 + 2 * layers) * H] -> next state."""
        parts = state.split(self.hidden_size, dim=1)
        inputs = self.embedding(token)
        cells: list[Tensor] = []
        for layer, gates in enumerate(self.gates):
            assert isinstance(gates, nn.Linear)
            hidden, cell = parts[1 + 2 * layer], parts[2 + 2 * layer]
            into_gates = in_type_of(gates, torch.cat([inputs.float(), hidden], dim=1))
            inputs, cell = lstm_cell(gates(into_gates).float(), cell)
            cells += [inputs, cell]
        inputs = in_type_of(self.projector, inputs)
        output = project(self.projector, inputs, adapters, PROJECTOR).float()
        return torch.cat([output, *cells], dim=1)

    def changed(self, state: Tensor, adapters: Adapters) -> Tensor:
        """Return a state [B, (1 + 2 * layers) * H] of the base as changed by the adapters."""
        output, *cells = state.split(self.hidden_size, dim=1)
        inputs = in_type_of(self.projector, cells[-2])
        return torch.cat([output + adapters.change(PROJECTOR, inputs), *cells], dim=1)


def lstm_cell(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Return h and c [B, H] of an LSTM layer from its gates [B, 4H] and c before, in float32."""
    keep_in, forget, candidate, out = gates.chunk(4, dim=1)
    cell = forget.sigmoid() * cell + keep_in.sigmoid() * candidate.tanh()
    return out.sigmoid() * cell.tanh(), cell


def _lstm_gates(lstm: nn.LSTM, layer: int) -> nn.Linear:
    """Return the weights of one LSTM layer as one projection of `[input, hidden]`."""
    from_input = getattr(lstm, f"weight_ih_l{layer}").detach()
    from_hidden = getattr(lstm, f"weight_hh_l{layer}").detach()
    weight = torch.cat([from_input, from_hidden], dim=1)
    gates = nn.Linear(weight.shape[1], weight.shape[0])
    gates.weight = nn.Parameter(weight)
    bias = getattr(lstm, f"bias_ih_l{layer}") + getattr(lstm, f"bias_hh_l{layer}")
    gates.bias = nn.Parameter(bias.detach())
    return gates
