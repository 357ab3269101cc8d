"""Random search: every generation is drawn anew. The control of every other searcher."""

from pullback.applications.searching.searcher import Floats, Searcher


class RandomSearch(Searcher):
    """Draws feasible codes independently of all scores."""

    def ask(self) -> Floats:
        """Return x = σ y S with y ~ N(0, I)."""
        return self.setting.feasible.inside(self.sigma * self.setting.coordinates.x(self.normal()))

    def learn(self, x: Floats, scores: Floats) -> None:
        """Learn nothing."""
