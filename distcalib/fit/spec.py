"""The settings of a fit: one frozen value that a run can store and digest."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from distcalib.errors import InputError
from distcalib.fit.loss import LOSSES

#: Penalty per open gate when neither a penalty nor a record budget is given: nearly every record stays.
DEFAULT_LAMBDA_L0 = 1e-8
# What every engine has in common, and no setting changes.
ADAM_MOMENTS = (0.9, 0.999)
ADAM_EPS = 1e-8
#: log alpha is clamped to this before use: beyond it the sigmoid is flat and its gradient gone.
LOG_ALPHA_BOUND = 20.0
#: Gate noise is clamped to (eps, 1 - eps), so that its log-odds stay finite.
UNIFORM_EPS = 1e-6
#: Penalties per open gate: ``local`` keeps nearly every record, ``national`` few of them.
PRESETS = {"local": 1e-8, "national": 1e-4}
SELECTORS = ("auto", "gates", "reweighted")
_CHOICES = {"selector": SELECTORS, "loss": LOSSES}


@dataclass(frozen=True)
class FitSpec:
    """Every setting of a fit, with its default. All values are JSON scalars or tuples of them.

    The gate settings and their names are those of Louizos, Welling and Kingma (2017), "Learning sparse neural
    networks through L0 regularization", and of l0-python's ``SparseCalibrationWeights``.

    Attributes
    ----------
    engine
        Of the gates: ``"auto"``, ``"cpu"``, ``"cuda"`` (a CUDA device), or the references ``"torch"`` and
        ``"l0"``; `distcalib.fit.resolve_engine` resolves ``auto``.
    seed
        Of gate noise, jitter and the choice of a fractional holdout.
    selector
        What chooses the columns: ``"gates"`` (L0), or ``"reweighted"``, a reweighted L1 penalty that goes
        down to a number of records (`distcalib.fit.reweighted`). ``"auto"``: reweighted where a number of
        records and no penalty is given, the loss is squared and no engine of the gates is named.
    loss, loss_knee
        Penalty of a relative error e: ``"squared"`` e^2, ``"huber"`` e^2 up to the knee (0.1) and a line from
        there, ``"capped_mape"`` ``min(|e|, knee)`` (1).
    records
        Exact number of columns that the selection keeps; None: those whose gate is open at the end.
    lambda_l0
        Loss per expected open gate. None with `records`: found on the way, so that the expected number of
        open gates comes down to the budget. None without `records`: 1e-8.
    lambda_l2
        Loss per squared relative weight (weight over initial weight) while the gates are trained.
    epochs
        Adam steps of the gate stage (the most, when the penalty rises to a record budget). 0, or a budget of
        every column: no selection, all columns are refitted.
    learning_rate
        Adam's step for log weights and log alphas.
    beta, gamma, zeta
        Temperature and stretch of the hard-concrete distribution.
    initial_keep
        Probability with which a gate starts open.
    log_weight_jitter, log_alpha_jitter
        Standard deviations of the normal noise on the starting point; breaks ties between equal records.
    budget_penalty
        First penalty for a record budget K of n columns, in units of (starting loss / n) (n / K)^2; the best
        of those tried for budgets of 3 to 95 percent.
    scale_floor
        A target's error is divided by ``max(|target|, scale_floor * sum |x| initial weight)``: targets of
        zero, or far below what the microdata hold, neither divide by zero nor drown the others.
    lower_bound, upper_bound
        Of the ratio of a final weight to its mass-scaled initial weight (initial weight times the initial
        weight of all columns over that of the selected ones). Exact. With a lower bound
        of 0 the refit may drop records.
    weight_ratio
        Largest final weight over the initial weight itself, beside `upper_bound`. Exact. None: no limit.
    share_cap
        Largest share of a target that any one column may have, ``w |x| <= share_cap |target|``, for fitted
        targets other than zero. Exact. None: no cap.
    effective_share
        Least effective sample size of an area's kept columns, as a share of their number. The refit pulls the
        weights of areas below it toward their mean, as little as need be. None: no pull.
    conserve_mass
        Whether the final weights sum to the initial ones (to float32's rounding of each).
    ridge
        Pull of the refit toward the mass-scaled initial weights: a mean squared relative change of 1 costs as
        much as a relative error of sqrt(ridge) on every target. Less fits closer and does worse on held-out
        targets.
    refit_epochs
        The most steps of the refit (one step reads the matrix twice); 0 keeps the mass-scaled initial
        weights.
    refit_tolerance
        The refit has converged when its projected gradient has shrunk by this factor.
    refit_patience
        With a holdout: stop after this many rounds without a better held-out error, and return the best
        round.
    """

    engine: str = "auto"
    seed: int = 0
    selector: str = "auto"
    loss: str = "squared"
    loss_knee: float | None = None
    records: int | None = None
    lambda_l0: float | None = None
    lambda_l2: float = 0.0
    epochs: int = 500
    learning_rate: float = 0.15
    beta: float = 0.35
    gamma: float = -0.1
    zeta: float = 1.1
    initial_keep: float = 0.999
    log_weight_jitter: float = 0.0
    log_alpha_jitter: float = 0.01
    budget_penalty: float = 0.2
    scale_floor: float = 0.1
    lower_bound: float = 0.02
    upper_bound: float = 50.0
    weight_ratio: float | None = None
    share_cap: float | None = None
    effective_share: float | None = None
    conserve_mass: bool = False
    ridge: float = 0.005
    refit_epochs: int = 500
    refit_tolerance: float = 1e-6
    refit_patience: int = 5

    def __post_init__(self) -> None:
        for name in ("seed", "epochs", "refit_epochs", "refit_patience"):
            _require(name, getattr(self, name), isinstance(getattr(self, name), int), "an integer")
        if self.records is not None:
            _require(
                "records", self.records, isinstance(self.records, int) and self.records >= 1, "at least 1"
            )
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in (*_CHOICES, "engine", "conserve_mass") and value is not None:
                _require(field.name, value, isinstance(value, int | float), "a number")
            if isinstance(value, float):
                _require(
                    field.name, value, math.isfinite(value) or field.name == "upper_bound", "a finite number"
                )
        for name in ("epochs", "refit_epochs", "lambda_l2", "ridge", "log_weight_jitter", "log_alpha_jitter"):
            _require(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")
        for name in (
            "learning_rate",
            "beta",
            "scale_floor",
            "budget_penalty",
            "refit_tolerance",
            "refit_patience",
        ):
            _require(name, getattr(self, name), getattr(self, name) > 0, "more than 0")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise InputError(
                    "unknown setting", place=f"fit.{name}", value=getattr(self, name),
                    expected="one of " + ", ".join(choices), choices=choices,
                )  # fmt: skip
        if not isinstance(self.conserve_mass, bool):
            raise InputError(
                "setting out of range", place="fit.conserve_mass", value=self.conserve_mass,
                expected="true or false",
            )  # fmt: skip
        for name in ("loss_knee", "weight_ratio", "share_cap", "effective_share"):
            value = getattr(self, name)
            _require(name, value, value is None or value > 0, "more than 0")
        _require("lambda_l0", self.lambda_l0, self.lambda_l0 is None or self.lambda_l0 >= 0, "0 or more")
        share = self.effective_share
        _require("effective_share", share, share is None or share < 1, "less than 1")
        _require("gamma", self.gamma, self.gamma < 0, "less than 0")
        _require("zeta", self.zeta, self.zeta > 1, "more than 1")
        _require("initial_keep", self.initial_keep, 0 < self.initial_keep < 1, "between 0 and 1, exclusive")
        _require("lower_bound", self.lower_bound, 0 <= self.lower_bound <= 1, "between 0 and 1")
        _require("upper_bound", self.upper_bound, self.upper_bound >= 1, "1 or more")

    def log_bounds(self) -> tuple[float, float]:
        """Return the bounds of a log relative weight."""
        low = math.log(self.lower_bound) if self.lower_bound > 0 else -math.inf
        return low, math.log(self.upper_bound)

    @classmethod
    def of(cls, preset: str | None = None, **settings: Any) -> FitSpec:
        """Build a spec from keywords; an unknown name is an `InputError` that names the nearest.

        A preset of `PRESETS` says the penalty, unless that or a number of records is given.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in settings:
            if name not in known:
                raise InputError("unknown setting of a fit", place="fit", value=name, choices=known)
        if preset is not None and preset not in PRESETS:
            raise InputError("unknown preset of a fit", place="fit.preset", value=preset, choices=PRESETS)
        if preset is not None and settings.get("records") is None and settings.get("lambda_l0") is None:
            settings["lambda_l0"] = PRESETS[preset]
        return cls(**settings)

    def resolved(self, plain: bool) -> FitSpec:
        """Return the settings with the selector that ``auto`` stands for; `plain`: a loss without bands."""
        if self.selector != "auto":
            return self
        able = self.records is not None and self.lambda_l0 is None and plain and self.loss == "squared"
        chosen = "reweighted" if able and self.engine in ("auto", "cpu") else "gates"
        return dataclasses.replace(self, selector=chosen)

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as a JSON-able dict, in the order of the class."""
        return dataclasses.asdict(self)


def refuse_unused(spec: FitSpec) -> None:
    """Raise `InputError` where the reweighted selector is asked for with what belongs to the gates alone."""
    if spec.selector != "reweighted":
        return
    if spec.lambda_l0 is not None:
        raise InputError(
            "is a penalty of the gates, and the selector is reweighted", place="fit.lambda_l0",
            value=spec.lambda_l0, expected="null and a number of records, or selector gates",
        )  # fmt: skip
    if spec.engine not in ("auto", "cpu"):
        raise InputError(
            "is an engine of the gates, and the selector is reweighted", place="fit.engine",
            value=spec.engine, expected="auto, or selector gates",
        )  # fmt: skip


def _require(name: str, value: object, holds: bool, expected: str) -> None:
    if not holds or isinstance(value, bool):
        raise InputError("setting out of range", place=f"fit.{name}", value=value, expected=expected)
