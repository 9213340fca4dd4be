"""What a study is: a run's template, what is tried in it, how it is searched and judged. See `load_study`.

A trial is the template with one combination of the space and one seed. A template with a classifier or a
segmenter is trained and then judged on held-out real images. A template with components also makes images,
which are judged: a VAE that is not frozen is adapted in
a stage of its own before the trials, once for each way; U-Net and text encoder are then trained on what
`encode` made with it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from medsd_ray.spec.figures import DIRECTIONS, FIGURES, FigureName, Metric, metrics_of, usual
from medsd_ray.spec.images import (
    BATCH_SIZE,
    DRIFT,
    DRIFT_WHERE,
    GUIDANCE_SCALE,
    MOST_IMAGES,
    MOST_IN_A_BATCH,
    NUM_IMAGES,
    SCHEDULER,
    SEED,
    STEPS,
    DriftWhere,
    Sampling,
    SchedulerName,
)
from medsd_ray.spec.rules import Rule, SpecModel
from medsd_ray.spec.space import Dimension, ordered, repeated
from medsd_ray.spec.tasks import TASKS
from medsd_ray.spec.training import Training
from medsd_ray.spec.types import Address, DnsLabel, Positive, Seed, Text

MOST_COMBINATIONS = 4096


OWN = {"name": "the study's name", "output": "output", "data": "shards", "seed": "seeds"}
"""Fields of a run that the study itself gives, and by which of its own."""

LOSS_OF_ITS_OWN = (
    *("classifier.label", "classifier.classes", "classifier.loss", "classifier.class_weights"),
    *("classifier.label_smoothing", "segmenter.mask", "segmenter.classes", "segmenter.loss"),
)
"""Fields of a task that change what a validation loss is."""


class Search(SpecModel):
    """Which combinations are tried, and how long each trial goes on."""

    searcher: Literal["grid", "random", "tpe"] = Field(
        default="grid",
        description="every combination; some at random; or Optuna's tree-structured Parzen estimator",
    )
    num_samples: Annotated[int, Field(ge=1, le=MOST_COMBINATIONS)] | None = Field(
        default=None, description="combinations that random and tpe draw, each run with every seed"
    )
    seed: Seed = Field(default=0, description="of what is drawn")
    scheduler: Literal["none", "asha", "pbt"] = Field(
        default="none",
        description="asha: stops trials whose validation loss is behind (Li et al. 2020); pbt: trials take "
        "over weights and settings of better ones, and change them (Jaderberg et al. 2017)",
    )
    grace_steps: Positive | None = Field(
        default=None, description="asha: steps before a trial may be stopped"
    )
    reduction_factor: int = Field(
        default=3, ge=2, le=16, description="asha: at each look, one trial of this many goes on"
    )
    interval_steps: Positive | None = Field(
        default=None, description="pbt: steps between looks; a checkpoint is written at each of them"
    )
    max_concurrent: int = Field(default=1, ge=1, le=1024, description="trials that run at the same time")

    rules = (
        Rule(
            "(self.searcher == 'grid') != has(self.num_samples)",
            "num_samples is needed by random and tpe, and not by grid",
            lambda search: (search.searcher == "grid") == (search.num_samples is None),
        ),
        Rule(
            "(self.scheduler == 'asha') == has(self.grace_steps)",
            "grace_steps is needed by asha, and by no other",
            lambda search: (search.scheduler == "asha") == (search.grace_steps is not None),
        ),
        Rule(
            "(self.scheduler == 'pbt') == has(self.interval_steps)",
            "interval_steps is needed by pbt, and by no other",
            lambda search: (search.scheduler == "pbt") == (search.interval_steps is not None),
        ),
        Rule(
            "self.scheduler != 'pbt' || self.searcher == 'random'",
            "pbt starts from random settings: set searcher to random",
            lambda search: search.scheduler != "pbt" or search.searcher == "random",
        ),
    )


class Budget(SpecModel):
    """What ends a study before its search does."""

    max_trials: Positive | None = Field(default=None, description="null: as many as the search has")
    max_hours: float | None = Field(
        default=None,
        gt=0,
        le=10_000,
        description="after which no trial starts; those that run are ended well",
    )


class Evaluation(SpecModel):
    """The images that each trial makes, from the same prompts and seeds, and how they are judged."""

    # A distance between distributions, such as FID, needs two images at least.
    num_images: int = NUM_IMAGES.field(lowest=2, highest=MOST_IMAGES)
    prompts: Annotated[list[Text], Field(max_length=64)] = Field(
        default=[],
        description="where empty, captions of the training images, so that each label gets an equal share",
    )
    seed: int = SEED.field()
    guidance_scale: float = GUIDANCE_SCALE.field()
    scheduler: SchedulerName = SCHEDULER.field()
    steps: int = STEPS.field()
    drift: float | None = DRIFT.field()
    drift_where: DriftWhere | None = DRIFT_WHERE.field()
    batch_size: int = BATCH_SIZE.field(highest=MOST_IN_A_BATCH)
    label: Text = Field(
        default="finding", description="the field of the shards' labels that the detector learns"
    )
    figures: Annotated[list[FigureName], Field(max_length=16)] = Field(
        default=[], description="where empty, the usual ones of what is trained: all but localization"
    )
    words: Annotated[
        dict[str, Annotated[list[Text], Field(min_length=1, max_length=16)]], Field(max_length=32)
    ] = Field(
        default={},
        description="localization: mask -> what its finding is called in captions; the mask's name if absent",
    )
    split: Literal["validation", "test"] = Field(
        default="test", description="of the study's shards, on which classifiers and segmenters are judged"
    )

    @property
    def sampling(self) -> Sampling:
        """How each image is sampled."""
        return Sampling(
            guidance_scale=self.guidance_scale,
            scheduler=self.scheduler,
            steps=self.steps,
            drift=self.drift,
            drift_where=self.drift_where,
        )


class StudySpec(SpecModel):
    """A search over a run's template: what is tried, how, and what makes one trial better than another."""

    name: DnsLabel = Field(description="a DNS label")
    output: Address = Field(description="folder or s3:// for all that the study writes")
    shards: Address = Field(description="image shards that prepare wrote; folder or s3://")
    run: dict[str, Any] = Field(
        description="template: a run without name, data, output and seed, which the study gives; one of a "
        "classifier or segmenter may have data of its own, and is judged on the study's shards"
    )
    vae: Training | None = Field(
        default=None, description="training of the VAE, where one that is not frozen is tried"
    )
    space: Annotated[dict[str, Dimension], Field(max_length=32)] = Field(
        default={}, description="dotted path in the run -> what is tried; one trial a seed where empty"
    )
    seeds: Annotated[list[Seed], Field(min_length=1, max_length=32)] = Field(
        default=[0], description="each combination is run with each; intervals are over them"
    )
    search: Search = Search()
    budget: Budget = Budget()
    metric: Metric = Field(default="insertion_accuracy", description="which combination is the best")
    mode: Literal["min", "max"] | None = Field(default=None, description="the metric's own where absent")
    evaluation: Evaluation = Evaluation()

    @field_validator("space", mode="before")
    @classmethod
    def _short_list(cls, value):
        """`path: [a, b]` is short for `path: {choice: [a, b]}`."""
        if not isinstance(value, dict):
            return value
        return {path: {"choice": one} if isinstance(one, list) else one for path, one in value.items()}

    @model_validator(mode="after")
    def _searchable(self):
        ordered(self.space)
        for path, dimension in self.space.items():
            if path.split(".")[0] in self.own:
                raise ValueError(f"space.{path}: the study gives this field; see {OWN[path.split('.')[0]]}")
            if twice := repeated(dimension.choice or []):
                raise ValueError(f"space.{path}: {twice} is there twice; keep one")
            if dimension.choice is None and self.search.searcher == "grid":
                raise ValueError(
                    f"space.{path}: a grid takes choices alone; list values, or let search.searcher draw"
                )
            if self.search.scheduler != "none" and path.startswith(("objective.", *LOSS_OF_ITS_OWN)):
                raise ValueError(
                    f"space.{path}: {self.search.scheduler} compares validation losses, which this changes"
                )
            if dimension.choice is None and path.startswith(("components.vae", "vae_objective")):
                raise ValueError(
                    f"space.{path}: each way of the VAE is a stage of its own, so that it takes choices alone"
                )
        if wrong := [name for name in self.own if name in self.run]:
            raise ValueError(f"run.{wrong[0]}: the study gives this field; see {OWN[wrong[0]]}")
        for name in self.evaluation.figures:
            if name not in FIGURES or self.subject not in FIGURES[name].of:
                known = [one for one, figure in FIGURES.items() if self.subject in figure.of]
                raise ValueError(
                    f"evaluation.figures: {name} is none of a study of {self.subject}; there are "
                    f"{', '.join(known)}"
                )
        if self.evaluation.words and "localization" not in self.figures:
            raise ValueError("evaluation.words: they are of localization; name it in evaluation.figures")
        if self.metric not in (known := metrics_of(self.figures)):
            raise ValueError(
                f"metric: a study of {self.subject} is judged by one of {', '.join(known)}, not by "
                f"{self.metric}"
            )
        if self.subject != "components" and self.vae is not None:
            raise ValueError(f"vae: a {self.subject} has none; leave it out")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds: one is there twice")
        if self.search.scheduler == "pbt":
            self._check_pbt()
        return self

    def _check_pbt(self) -> None:
        if len(self.seeds) > 1:
            raise ValueError("seeds: pbt takes one, as trials take over each other's weights")
        for path, dimension in self.space.items():
            if dimension.choice is not None or dimension.when:
                raise ValueError(
                    f"space.{path}: pbt changes numbers as it runs; give uniform or loguniform, without when"
                )
            if not path.startswith("training.") and not path.endswith(".learning_rate"):
                raise ValueError(f"space.{path}: pbt changes training and learning rates alone")
        if not self.space:
            raise ValueError("space: pbt needs a dimension to change")

    @property
    def subject(self) -> str:
        """What its runs train: components, or a classifier or segmenter."""
        return next((task for task in TASKS if self.run.get(task) is not None), "components")

    @property
    def figures(self) -> list[str]:
        """By which each trial is judged."""
        return self.evaluation.figures or usual(self.subject)

    @property
    def own(self) -> list[str]:
        """Fields of a run that the study gives, and the template does not have."""
        return [name for name in OWN if name != "data" or self.subject == "components"]

    @property
    def direction(self) -> Literal["min", "max"]:
        """Whether a lower or a higher metric is better."""
        return self.mode or DIRECTIONS[self.metric]
