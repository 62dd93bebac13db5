"""Write tasks of sorting (`tasks.jsonl`), and train a judge of sorted digits on questions such as `312=123?` (`judge/`)."""

import itertools
import json
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

STEPS, BATCH, DIGITS, draw = 800, 128, "0123456789", random.Random(0)


def question(size: int) -> str:
    """Return a row of digits with an answer and the right verdict. Half of the answers had a fault put in."""
    row = [draw.choice(DIGITS) for _ in range(size)]
    answer, kind = sorted(row), draw.random()
    if kind < 0.25:
        answer[draw.randrange(size)] = draw.choice(DIGITS)
    elif kind < 0.5:
        draw.shuffle(answer)
    elif kind < 0.6:
        answer = answer[:-1] if draw.random() < 0.5 else [*answer, draw.choice(DIGITS)]
    return f"{''.join(row)}={''.join(answer)}?{'y' if answer == sorted(row) else 'n'}"


with Path("tasks.jsonl").open("w") as file:
    for digits in itertools.chain(*(itertools.product(DIGITS, repeat=n) for n in (2, 3))):
        row = {"prompt": f"{''.join(digits)}=", "answer": "".join(sorted(digits)), "level": len(digits)}
        file.write(json.dumps(row) + "\n")
ids = {token: number for number, token in enumerate(["<pad>", "<eos>", *DIGITS, *"=?yn"])}
letters = Tokenizer(models.WordLevel(ids, unk_token="<pad>"))
letters.pre_tokenizer, letters.decoder = pre_tokenizers.Split("", "isolated"), decoders.Fuse()
PreTrainedTokenizerFast(tokenizer_object=letters, pad_token="<pad>", eos_token="<eos>").save_pretrained("judge")
torch.manual_seed(0)  # noqa: TID251 (a script of its own)
sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
settings = {"max_position_embeddings": 32, "eos_token_id": 1, "pad_token_id": 0, "bos_token_id": None}
model = LlamaForCausalLM(LlamaConfig(vocab_size=len(ids), **sizes, **settings))
optimiser = torch.optim.AdamW(model.parameters())
for step in range(STEPS):
    texts = [question(draw.choice((2, 3))) for _ in range(BATCH)]
    width = max(map(len, texts))
    batch = torch.tensor([[0] * (width - len(text)) + [ids[c] for c in text] + [1] for text in texts])
    labels = torch.full_like(batch, -100)
    labels[:, -2:] = batch[:, -2:]  # only the verdict and its end
    model(input_ids=batch, attention_mask=(batch != 0).long(), labels=labels).loss.backward()
    optimiser.param_groups[0]["lr"] = 3e-3 * min(1, (step + 1) / 50, (STEPS - step) / 200)
    optimiser.step()
    optimiser.zero_grad()
model.save_pretrained("judge")
