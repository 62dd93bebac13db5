"""Good: a coroutine."""

import asyncio


async def reward(answer, reference):
    await asyncio.sleep(0)
    return answer.strip() == reference["answer"]
