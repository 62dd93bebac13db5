from nemo_gym.base_resources_server import (
    BaseResourcesServerConfig,
    BaseVerifyRequest,
    BaseVerifyResponse,
    SimpleResourcesServer,
)


class UnitsVerifyRequest(BaseVerifyRequest):
    answer: str


class UnitsResourcesServer(SimpleResourcesServer):
    config: BaseResourcesServerConfig

    async def verify(self, body: UnitsVerifyRequest) -> BaseVerifyResponse:
        right = body.response.output_text.strip() == body.answer
        return BaseVerifyResponse(**body.model_dump(), reward=float(right))


if __name__ == "__main__":
    UnitsResourcesServer.run_webserver()
