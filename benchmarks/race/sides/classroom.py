"""Programs as tutorials write them, one position after the other under autograd: the lecture's, and GRU + Bahdanau."""

from __future__ import annotations

import random
import sys
import time

import torch
from torch import Tensor, nn
from torch.nn import functional

from race.child import PAD, Job, Laps, Result, read_batches, run, trained


class LectureModel(nn.Module):
    """LSTM to LSTM on vectors: the decoder is fed the target, or its own prediction, by a coin for each step."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.encoder = nn.LSTM(dim, hidden, batch_first=True)
        self.decoder = nn.LSTM(dim, hidden, batch_first=True)
        self.output = nn.Linear(hidden, dim)

    def forward(self, src: Tensor, tgt: Tensor, ratio: float) -> Tensor:
        """Predict the whole target."""
        _, (hidden, cell) = self.encoder(src)
        outputs = torch.zeros_like(tgt)
        fed = torch.zeros_like(tgt[:, :1])
        for t in range(tgt.shape[1]):
            answer, (hidden, cell) = self.decoder(fed, (hidden, cell))
            predicted = self.output(answer)
            outputs[:, t : t + 1] = predicted
            fed = tgt[:, t : t + 1] if random.random() < ratio else predicted
        return outputs


def lecture(job: Job) -> Result:
    """Run the lecture's program: two pairs of five vectors, a thousand epochs."""
    torch.manual_seed(1)
    src, tgt = torch.randn(2, 5, 10), torch.randn(2, 5, 10)
    model = LectureModel(10, 128)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    criterion = nn.MSELoss()
    start, loss = time.perf_counter(), torch.zeros(())
    for _ in range(job["updates"]):
        optimizer.zero_grad()
        loss = criterion(model(src, tgt, 0.5), tgt)
        loss.backward()
        optimizer.step()
        loss.item()
    seconds = time.perf_counter() - start
    parameters = sum(p.numel() for p in model.parameters())
    return {"seconds": [seconds], "updates": job["updates"], "losses": [loss.item()], "parameters": parameters}


class AdditiveAttention(nn.Module):
    """alpha_t = softmax over i of v^T tanh(W [s_{t-1}; h_i])."""

    def __init__(self, state_dim: int, dim: int) -> None:
        super().__init__()
        self.map = nn.Linear(state_dim + dim, dim)
        self.energy = nn.Linear(dim, 1, bias=False)

    def forward(self, hidden: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """Weigh the source positions for one step."""
        repeated = hidden[:, None].repeat(1, states.shape[1], 1)
        scores = self.energy(torch.tanh(self.map(torch.cat([repeated, states], dim=2)))).squeeze(2)
        return functional.softmax(scores.masked_fill(~mask, -1e10), dim=1)


class ClassroomModel(nn.Module):
    """A bidirectional GRU, and a GRU with Bahdanau's attention, step by step."""

    def __init__(self, vocab_size: int, embedding: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.src_embedding = nn.Embedding(vocab_size, embedding, padding_idx=PAD)
        self.tgt_embedding = nn.Embedding(vocab_size, embedding, padding_idx=PAD)
        self.encoder = nn.GRU(embedding, dim, batch_first=True, bidirectional=True)
        self.bridge = nn.Linear(2 * dim, dim)
        self.attention = AdditiveAttention(2 * dim, dim)
        self.decoder = nn.GRU(embedding + 2 * dim, dim, batch_first=True)
        self.readout = nn.Linear(3 * dim + embedding, embedding)
        self.output = nn.Linear(embedding, vocab_size)
        self.dropout = nn.Dropout(dropout)

    def step(self, token: Tensor, hidden: Tensor, states: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Predict the next token of each sentence."""
        embedded = self.dropout(self.tgt_embedding(token))
        weights = self.attention(hidden, states, mask)
        context = torch.bmm(weights[:, None], states).squeeze(1)
        _, state = self.decoder(torch.cat([embedded, context], dim=1)[:, None], hidden[None])
        hidden = state[0]
        features = torch.tanh(self.readout(torch.cat([hidden, context, embedded], dim=1)))
        return self.output(self.dropout(features)), hidden

    def forward(self, src: Tensor, lengths: Tensor, tgt: Tensor) -> Tensor:
        """Predict each token of the target from those before it."""
        embedded = self.dropout(self.src_embedding(src))
        packed = nn.utils.rnn.pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
        packed_states, last = self.encoder(packed)
        states, _ = nn.utils.rnn.pad_packed_sequence(packed_states, batch_first=True)
        hidden = torch.tanh(self.bridge(torch.cat([last[0], last[1]], dim=1)))
        outputs = torch.zeros(*tgt[:, 1:].shape, self.output.out_features)
        for t in range(tgt.shape[1] - 1):
            outputs[:, t], hidden = self.step(tgt[:, t], hidden, states, src != PAD)
        return outputs


def training(job: Job) -> Result:
    """Train the classroom's model with teacher forcing, as tutorials do."""
    torch.manual_seed(1)
    sizes = job["model"]
    model = ClassroomModel(job["vocab_size"], sizes["embedding"], sizes["dim"], sizes["dropout"]).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    criterion = nn.CrossEntropyLoss(ignore_index=PAD)
    prepared, laps, losses = read_batches(job["batches"]), Laps(), []
    for pairs in prepared:
        src, lengths, tgt = (torch.from_numpy(array) for array in (pairs.src, pairs.src_lengths, pairs.tgt))
        laps.lap()
        optimizer.zero_grad()
        outputs = model(src, lengths, tgt)
        loss = criterion(outputs.view(-1, outputs.shape[2]), tgt[:, 1:].reshape(-1))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    laps.lap()
    return trained(laps, job, prepared, losses, sum(p.numel() for p in model.parameters()))


if __name__ == "__main__":
    run({"training": training, "lecture": lecture}, sys.argv[1])
