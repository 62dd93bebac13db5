import pytest
from instar.components.update.presets import PRESETS, preset
import dataclasses
@pytest.mark.parametrize("name", list(PRESETS))
def test_all(world, name):
    c=preset(name, lr=1e-4)
    if c.kl.place!="none": world.reference=world.policy
    outs,m=world.update(c)
    print(name); print({k:round(v,5) for k,v in m.items() if not k.startswith("arm/")})
    world.trainer=outs.trainer; world.step=1
    world.policy=type(outs.policy)(outs.policy.path,"digest1"); world.rollouts=[dataclasses.replace(r,policy="digest1") for r in world.rollouts]
    if world.reference: world.reference=type(outs.policy)(world.reference.path,"digest0")
    outs,m=world.update(c)
    print(m["updates"])
