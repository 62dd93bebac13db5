"""The rollout stage: a policy acts on the drawn tasks, and every act is recorded.

tasks, batch --> stage -+-- sample  --> engine: tokens and their log-probabilities --+--> rollouts
                        |                                                            |
logged data  -----------+-- propose --> the policy's own actions at logged steps ----+

stage, config           the contract of the stage, and the settings of its strategies and engines
sample                  strategy `sample`: answers to prompts; `describe` counts them
propose, slices         strategy `propose`: windows of logged episodes, and the policy's own actions in them
gather                  joins the rollouts of several shards to one table

engine, engines         what an engine must do, and which engines there are
transformers_engine     engine `transformers`; `checks` refuses what it cannot serve correctly
  batching              continuous batching over the slots of `slot_cache`
  sampling, stops       how a token is drawn, and when a sample ends
  open_forward          chooses who computes logits (`forward`): `llama_forward` or `stock_forward`
  packed_linear         matrix products with weights laid out once, for `llama_forward`
vllm_engine             engine `vllm`; `vllm_server` holds it, `vllm_weights` checks its weights
footprint               the memory that sampling needs, computed from sizes alone
"""
