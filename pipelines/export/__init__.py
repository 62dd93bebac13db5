"""A policy as an ordinary Hugging Face folder, with a model card that is made from the ledger.

RUN: a directory, or the URI of an evolution in a store
 |
 v
select   which policy: the champion, the last one, or that of an iteration
 |
 v
folder   its files with the tokenizer; of a policy with an adapter, the merged weights or the adapter alone
card     README.md: recipe, base model, data, reward, numbers with intervals, gate decisions, digests, command
 |
 v
push     the folder to a hub, with the user's own token
"""
