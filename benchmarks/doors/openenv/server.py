from openenv.core.env_server import Action, Environment, Observation, State, create_app


class Answer(Action):
    text: str


class Units(Environment):
    SUPPORTS_CONCURRENT_SESSIONS = True

    def reset(self, right: str = "", **options) -> Observation:
        self.right = right
        return Observation()

    def step(self, action: Answer, **options) -> Observation:
        return Observation(done=True, reward=float(action.text.strip() == self.right))

    @property
    def state(self) -> State:
        return State()


app = create_app(Units, Answer, Observation)
