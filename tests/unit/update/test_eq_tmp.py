import numpy as np, torch, pytest, dataclasses
from instar.components.update import experience, batching, forward
from instar.components.update.presets import preset
from instar.artifact import *
from instar import schema, rows
def test_eq(world, make_llama):
    m=make_llama(dtype=torch.float64)
    t=lambda r,x: schema.to_table(r,x)
    d=experience.join(t(rows.BatchRow,world.batch),t(rows.RolloutRow,world.rollouts),t(rows.ScoreRow,world.scores),2)
    c=preset("sec",dtype="float64")
    res={}
    for p in ("none","sequence","prefix"):
        mic=batching.micro_batches(d,np.arange(16),60,p,"cpu")
        lp=torch.full((len(d.behaviour),),torch.nan,dtype=torch.float64)
        for x in mic: lp[x.tokens]=forward.score(m,x,c).logp.detach()
        res[p]=lp; print(p,len(mic),batching.padding_ratio(mic,int(d.widths.sum())))
    print((res["none"]-res["sequence"]).abs().max(),(res["none"]-res["prefix"]).abs().max())
