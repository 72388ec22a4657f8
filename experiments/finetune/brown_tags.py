r"""Part-of-speech tagging on the Brown corpus: 57,340 sentences, 104 tags.

    python benchmarks/task_sets.py --output=data/tasks --only=brown_tags
    python -m bert_jax.finetune --experiment=experiments/finetune/brown_tags.py \
      --checkpoint=all-MiniLM-L6-v2 --workdir=runs/brown_tags --seeds=1

Some marks of the corpus are removed from the tags: those of headlines (-hl), titles (-tl), cited
words (-nc) and foreign words (fw-). The second half of a contraction (+) is removed too.

Result of one seed (docs/results.md): the accuracy on test is 0.976, with the 95 % interval 0.975 to
0.977. Predicting the most frequent tag of each word has an accuracy of 0.915. The seed took 1,034 s
on two busy cores of an AMD EPYC server.
"""

from bert_jax.tasks.config import FineTuningConfig, TaskConfig, TaskTrainingConfig
from bert_jax.training.optim import OptimizerConfig

TAGS = r"""
' '' ( ) * , -- . : `` abl abn abx ap ap$ at be bed bed* bedz bedz* beg bem bem* ben ber
ber* bez bez* cc cd cd$ cs do do* dod dod* doz doz* dt dt$ dti dts dtx ex hv hv* hvd hvd*
hvg hvn hvz hvz* in jj jj$ jjr jjs jjt md md* nil nn nn$ nns nns$ np np$ nps nps$ nr nr$ nrs
od pn pn$ pp$ pp$$ ppl ppls ppo pps ppss ql qlp rb rb$ rbr rbt rn rp to uh vb vbd vbg vbn
vbz wdt wp$ wpo wps wql wrb
"""


def get_config() -> FineTuningConfig:
    """Returns the fine-tuning."""
    return FineTuningConfig(
        task=TaskConfig(
            family="tagging",
            train="conll:data/tasks/brown_tags/train.conll",
            dev="conll:data/tasks/brown_tags/dev.conll",
            test="conll:data/tasks/brown_tags/test.conll",
            columns=("token", "tag"),
            text="token",
            label="tag",
            labels=tuple(TAGS.split()),
            max_length=64,
            representation="last",
        ),
        training=TaskTrainingConfig(
            epochs=1, batch_size=32, evaluations_per_epoch=2, group_by_length=True
        ),
        optimizer=OptimizerConfig(
            learning_rate=1e-4, warmup_steps=0, decay_from="warmup_end", bias_correction=True
        ),
    )
