"""Bugs that other projects had, each as one change to the package: what `mutants.py` puts back."""

from dataclasses import dataclass

UNIT, NUMERICS = "tests/unit/training/test_", "tests/numerics/test_"


@dataclass(frozen=True)
class Mutant:
    """A known bug.

    Attributes:
        case: where it happened.
        file: below the package; `old`, which is there exactly once, becomes `new`.
        tests: pytest's names of those that must pass without it, and of which one must fail with it.
    """

    name: str
    case: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTANTS = (
    # Going on
    Mutant(
        "epochs forgotten",
        "accelerate #4195, transformers #40690: after a resume in a later epoch, the order of the first",
        "training/loop.py",
        "            step=self.step,\n            batch_size=training.batch_size,",
        '            step=self.step - vars(self).setdefault("first", self.step)\n'
        "            // (epoch := len(self.data.train) // training.batch_size) * epoch,\n"
        "            batch_size=training.batch_size,",
        (NUMERICS + "training.py::test_stopping_and_continuing_in_a_later_epoch",),
    ),
    Mutant(
        "last step again",
        "tinker-cookbook #935: the step before the checkpoint is taken a second time",
        "training/loop.py",
        "self.step, self.updates, self.best = step, ",
        "self.step, self.updates, self.best = step - 1, ",
        (NUMERICS + "training.py::test_stopping_and_continuing_is_not_stopping[3]",),
    ),
    Mutant(
        "moments lost",
        "flashoptim #3: the first loss after a resume is exact, the first update is not",
        "training/tensors.py",
        "value.to(parameter.device) if like is None else like(value, parameter)",
        "torch.zeros_like(parameter)",
        (UNIT + "checkpoint.py::test_weights_and_optimizer_come_back_bit_by_bit",),
    ),
    Mutant(
        "records not cut back",
        "Megatron-Bridge #4601: what came after the checkpoint is there twice",
        "training/resume.py",
        "    run.cut_back(step)\n",
        "",
        (NUMERICS + "training.py::test_a_crash_and_continuing_is_not_crashing[4]",),
    ),
    # Checkpoints
    Mutant(
        "saved in place",
        "transformers #27820, #27925: a half-written checkpoint has its final name",
        "training/durable.py",
        'partial = folder.with_name(f".{folder.name}.{os.getpid()}")',
        "partial = folder",
        (UNIT + "checkpoint.py::test_nothing_has_its_final_name_before_it_is_whole",),
    ),
    Mutant(
        "old one gone too early",
        "KempnerForge #102: the last good checkpoint is deleted before the new one is known to be whole",
        "training/checkpoint.py",
        "        verified_manifest(newest)\n        for path in earlier",
        "        for path in earlier",
        (UNIT + "checkpoint.py::test_old_ones_stay_while_the_newest_is_damaged",),
    ),
    Mutant(
        "newest deleted",
        "transformers #27138: rotation removes the checkpoint just written",
        "training/checkpoint.py",
        "if step_of(path) < step_of(newest)]",
        "if step_of(path) <= step_of(newest)]",
        (UNIT + "checkpoint.py::test_as_many_as_asked_stay_and_later_or_foreign_ones_too",),
    ),
    Mutant(
        "files not verified",
        "metaseq #53, SimpleTuner #2613: a torn checkpoint is loaded, or stops the run for good",
        "training/checkpoint.py",
        "        _compare(folder, files)\n",
        "        pass\n",
        (UNIT + "checkpoint.py::test_damaged_ones_are_set_aside_with_the_reason_and_an_older_one_is_used",),
    ),
    Mutant(
        "evaluation not polled",
        "goodfire spd #741: a signal during an evaluation is not answered, 0 of 6",
        "training/evaluation.py",
        "        poll()\n        of_batch = ",
        "        of_batch = ",
        (UNIT + "evaluation.py::test_a_request_to_stop_is_answered_before_the_next_batch",),
    ),
    # Steps
    Mutant(
        "non-finite step taken",
        "TRL #6702, transformers' logging_nan_inf_filter: NaN is hidden from the log and enters the weights",
        "training/step.py",
        '            self._require_finite(batch, metrics | {"gradient norm": norm})\n',
        "",
        (UNIT + "step.py::test_a_step_that_is_not_finite_leaves_the_weights",),
    ),
    Mutant(
        "first process alone skips",
        "WeatherGenerator #2724: the first rank leaves a step out, the others take it",
        "training/step.py",
        "        if self.engine.any(bool(wrong)):\n            where, layer = source_of_fault(self.model, self.engine)",
        '        if self.engine.is_main and wrong:\n            where, layer = "somewhere", None',
        # in two processes it hangs, like its model: five minutes for what one process shows in no time
        (UNIT + "step.py::test_what_is_not_finite_elsewhere_is_refused_here_too",),
    ),
    Mutant(
        "accumulation not normalised",
        "transformers #34191: micro-batches are summed, not averaged",
        "training/step.py",
        "(output.loss / len(micro_batches)).backward()",
        "output.loss.backward()",
        (UNIT + "step.py::test_a_dense_step_is_cut_alike",),
    ),
    Mutant(
        "counts doubled",
        "torchtitan #1593: assignments of a forward that is repeated count twice",
        "training/step.py",
        "return tuple(expert_counts(route.topk_indices, experts).squeeze(0) for route in routes)",
        "return tuple(2 * expert_counts(route.topk_indices, experts).squeeze(0) for route in routes)",
        (UNIT + "step.py::test_running_counts_are_those_of_the_micro_batches_before",),
    ),
    Mutant(
        "balance metric constant",
        "Megatron-LM #1617: the reported balance loss is 1.0 whatever the routing",
        "training/step.py",
        '"load_balancing_loss": float(balance)',
        '"load_balancing_loss": float(balance / balance)',
        (UNIT + "step.py::test_metrics_are_named_and_of_the_whole_step",),
    ),
    # Routing
    Mutant(
        "double softmax",
        "transformers #45120: the recorder gets probabilities for logits",
        "moe/router.py",
        "router_logits=logits,\n            entropy=entropy_of(clean)",
        "router_logits=clean,\n            entropy=entropy_of(clean)",
        ("tests/unit/moe/test_router.py::test_quantities_follow_from_the_raw_logits",),
    ),
    Mutant(
        "top-1 weight constant",
        "Megatron-LM #894, minimind #858: renormalised alone, it is 1, and the LM loss never trains the gate",
        "moe/router.py",
        "return 1 + (chosen - chosen.detach())",
        "return chosen / chosen.sum(-1, keepdim=True)",
        (NUMERICS + "router_gradient.py::test_lm_loss_alone_reaches_every_gate[1]",),
    ),
    Mutant(
        "noise in the record",
        "davidmrau/mixture-of-experts #31: two stages of a noisy gate are taken for each other",
        "moe/router.py",
        "router_probs_clean=clean,",
        "router_probs_clean=probs,",
        (NUMERICS + "noise.py::test_clean_quantities_are_untouched_and_noisy_ones_changed",),
    ),
    Mutant(
        "loss-free bias in bf16",
        "Megatron-LM #1482: a step of 1e-3 is lost from 0.5 on",
        "moe/router.py",
        "torch.zeros(num_experts, dtype=torch.float32)",
        "torch.zeros(num_experts, dtype=torch.bfloat16)",
        (NUMERICS + "loss_free_bias.py::test_300_updates_are_the_oracle_s_to_the_last_bit",),
    ),
    Mutant(
        "balance loss silently off",
        "transformers #44242: it acts only where router logits are asked for",
        "models/gpt2_moe.py",
        "loss=self._objective(lm_loss, balance, z_loss,",
        "loss=self._objective(lm_loss, balance if keep_logits else None, z_loss,",
        (NUMERICS + "model.py::test_coefficients_change_the_gradient_whether_or_not_logits_are_asked_for",),
    ),
    Mutant(
        "layers pooled",
        "transformers #28255: two collapsed layers balance each other",
        "moe/losses.py",
        "    return torch.stack([_layer_balance(route, f, flat) for route, f in zip(routes, loads, strict=True)])"
        ".mean()",
        "    probs = torch.stack([route.router_probs for route in routes]).mean(0)\n"
        '    pooled = RouterOutput(**vars(routes[0]) | {"router_probs": probs})\n'
        "    return _layer_balance(pooled, torch.stack(list(loads)).mean(0), flat)",
        (NUMERICS + "losses.py::test_layers_are_averaged_and_never_pooled",),
    ),
    Mutant(
        "denominator of one micro-batch",
        "Megatron-LM #7197: counts are of the window, what they are divided by is not",
        "moe/balancing.py",
        "return load_of_counts(summed, dtype)[group]",
        "return summed[group].to(dtype or torch.get_default_dtype()) / counts.sum(-1, keepdim=True).clamp(min=1)",
        ("tests/unit/moe/test_balancing.py::test_the_denominator_is_accumulated_with_the_counts",),
    ),
    Mutant(
        "padding counted",
        "Megatron-LM #1984: padding has a load",
        "moe/balancing.py",
        "None if mask is None else mask.reshape(-1), groups=batch",
        "None, groups=batch",
        (NUMERICS + "model.py::test_left_padded_batch_is_the_single_sequence",),
    ),
    Mutant(
        "idle gradient let through",
        "pytorch #172439: grouped products train experts that no token was sent to",
        "training/selfcheck.py",
        "    if experts.num_experts > 1:\n        _refuse_idle_gradient(found, chosen)\n",
        "",
        (UNIT + "selfcheck.py::test_a_gradient_for_an_expert_without_tokens_is_refused",),
    ),
    Mutant(
        "held-out text trains",
        "parameter-golf #2127: validation documents are in the training split",
        "data/blocks.py",
        "members = corpus.members(split, domain)",
        'members = [m for s in (SPLITS if split == "train" else (split,)) for m in corpus.members(s, domain)]',
        ("tests/unit/data/test_blocks.py::test_training_blocks_hold_no_held_out_text",),
    ),
)
