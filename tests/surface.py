"""What of peft's public surface is here, and why the rest is not: the table of nbs/reference/52_surface.ipynb, compared with peft by test_surface.py."""

import dataclasses
import html
import inspect

import torch

import peft_viz

METHODS = """Adamss AdaptionPrompt BOFT Beft C3A Deft Delora FourierFT Frod Glora Gralora HRA Hira LNTuning Lily LoHa LoKr Miss OFT
OSF Peanut Psoft Pvera RandLora Road Shadow Shira Supertuning TinyLora TrainableTokens UniLora VBLoRA Vera WaveFT XLora"""
TASKS = "FeatureExtraction QuestionAnswering Seq2SeqLM SequenceClassification TokenClassification"

NOT_HERE = {  # names at the top: why not
    "another method; there are nine here": [
        *(f"{name}{kind}" for name in METHODS.split() for kind in ("Config", "Model")),
        *"BeftConfig CartridgeConfig CartridgeEncoder compose_cartridge_adapters".split(),
        *"initialize_kv_prefix_from_past_key_values initialize_kv_prefix_from_text".split(),
        "prompt_embeddings_from_past_key_values",
    ],
    "another task; causal language models only": [
        *(f"{kind}{task}" for kind in ("AutoPeftModelFor", "PeftModelFor") for task in TASKS.split()),
        "shift_tokens_right",
    ],
    "a variant of LoRA; a configuration that asks for it is refused by name": [
        *(
            f"{name}Config"
            for name in "Arrow BdLora Eva Kasa LoftQ LoraGA LoraRuntime Monteclora Velora Corda".split()
        ),
        *"create_arrow_model get_eva_state_dict initialize_lora_eva_weights preprocess_loraga".split(),
        *"replace_lora_weights_loftq find_kappa_target_modules".split(),
    ],
    "several methods in one model; get_peft_model(mixed=True) is refused": [
        "PeftMixedModel",
        "PEFT_TYPE_TO_MIXED_MODEL_MAPPING",
    ],
    "turns another method into LoRA": ["convert_to_lora", "save_as_lora"],
    "AutoPeftModelForCausalLM loads what it would load": ["AutoPeftModel"],
    "prefixes have the layout of each family's cache by themselves": [
        "TRANSFORMERS_MODELS_TO_PREFIX_TUNING_POSTPROCESS_MAPPING",
        "bloom_model_postprocess_past_key_value",
    ],
}
ATTRIBUTES_NOT_HERE = {  # "class.attribute", or ".attribute" of all classes: why not
    ".transformer_backbone_name": "the embeddings are asked for with get_input_embeddings",
    ".get_model_config": "a step inside of peft; the model's config is peft_model.config",
    ".target_module_mapping": "the default targets are in architectures: lora_targets and its like",
    ".subtract_mutated_init": "for initialisations that change the base model; they are not here",
    ".uses_shared_state": "for methods that share parameters between layers; there is none here",
    ".check_kwargs": "configurations check themselves when they are made, and once more when they are used",
    ".from_json_file": "PeftConfig.from_pretrained reads and checks the file",
    ".from_peft_type": "get_peft_config",
    ".is_adaption_prompt": "another method",
    "Config.push_to_hub": "nothing here uses the network; save_pretrained(folder), then: hf upload NAME FOLDER",
    "Model.set_requires_grad": "it is a method of the PeftModel around it",
    "Model.supports_lora_conversion": "it is a method of the PeftModel around it",
}
PARAMETERS_NOT_HERE = {  # "function.parameter": why not
    "set_peft_model_state_dict.ignore_mismatched_sizes": "what does not fit is refused",
    "set_peft_model_state_dict.low_cpu_mem_usage": "tensors are copied to where the adapter is",
    "load_peft_weights.key_mapping": "names in a file are peft's",
    "PeftModel.get_prompt.max_cache_len": "a cache of fixed length is made with room for the virtual tokens",
    "load_peft_weights.hf_hub_download_kwargs": "nothing here uses the network",
}
REASON = {name: why for why, names in NOT_HERE.items() for name in names}
FUNCTIONS = """get_peft_model get_peft_config get_peft_model_state_dict set_peft_model_state_dict load_peft_weights inject_adapter_in_model
prepare_model_for_kbit_training cast_mixed_precision_params get_layer_status get_model_status get_base_model_state_dict
set_base_model_state_dict AutoPeftModelForCausalLM.from_pretrained PeftConfig.from_pretrained PeftConfig.save_pretrained
PeftModel.from_pretrained PeftModel.load_adapter PeftModel.save_pretrained PeftModel.add_adapter PeftModel.set_adapter
PeftModel.delete_adapter PeftModel.get_prompt PeftModel.set_requires_grad PeftModel.create_or_update_model_card
PeftModelForCausalLM.forward LoraModel.add_weighted_adapter LoraModel.merge_adapter LoraModel.merge_and_unload
LoraModel.unload LoraModel.set_adapter LoraModel.delete_adapter IA3Model.add_weighted_adapter
AdaLoraModel.update_and_allocate""".split()
LORA, PROMPT = "LoraConfig", "PromptTuningConfig"


def public(thing):
    "Names without an underscore in front."
    return {name for name in dir(thing) if not name.startswith("_")}


def names(package):
    "(name, here?, why not) of everything that peft has at its top."
    return [
        (name, name in peft_viz.__all__, REASON.get(name))
        for name in sorted(set(package.__all__) | REASON.keys() & set(dir(package)))
    ]


def attributes(package):
    "(class.attribute, here?, why not) of models, tuners and configurations; of peft's classes and of the models that they make."
    known, rows = public(torch.nn.Module()) | public(peft_viz.tiny_random("llama")), []
    for config, fields in (LORA, {}), (PROMPT, dict(num_virtual_tokens=2)):
        theirs, ours = (
            made.get_peft_model(
                peft_viz.tiny_random("llama"), getattr(made, config)(task_type="CAUSAL_LM", **fields)
            )
            for made in (package, peft_viz)
        )
        rows += [(f"PeftModelForCausalLM.{name}", hasattr(ours, name)) for name in public(theirs) - known]
    classes = [
        n
        for n in peft_viz.__all__
        if isinstance(getattr(package, n, None), type)
        and n != "PeftModel"
        and n.endswith(("Config", "Model"))
    ]
    for name in classes:
        theirs, ours = getattr(package, name), getattr(peft_viz, name)
        fields = {f.name for f in dataclasses.fields(theirs)} if dataclasses.is_dataclass(theirs) else set()
        here = public(ours) | ({f.name for f in dataclasses.fields(ours)} if fields else set())
        rows += [
            (f"{name}.{attribute}", attribute in here) for attribute in (public(theirs) | fields) - known
        ]
    return [(name, here, _why(name)) for name, here in sorted(set(rows))]


def _why(name):
    return next((why for end, why in ATTRIBUTES_NOT_HERE.items() if name.endswith(end)), None)


def parameters(package):
    "(function(parameter), here?, why not) of functions and methods that are here."
    rows = []
    for function in FUNCTIONS:
        if not hasattr(package, function.split(".")[0]):
            continue  # an older peft
        theirs, ours = (_parameters(made, function) for made in (package, peft_viz))
        loading = (
            peft_viz.reference.model.LOADING
            if function in ("PeftModel.from_pretrained", "PeftModel.load_adapter")
            else {}
        )
        for name, parameter in theirs.items():
            open_end = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
            key = f"{function}.{name}"
            rows.append((key, open_end or name in ours or name in loading, PARAMETERS_NOT_HERE.get(key)))
    return rows


def _parameters(package, function):
    thing = package
    for name in function.split("."):
        thing = getattr(thing, name)
    return {n: p for n, p in inspect.signature(thing).parameters.items() if n != "self"}


def page(rows, what):
    "A table in HTML: what is here in short, the rest with its reason."
    here = [name for name, is_here, _ in rows if is_here]
    reasons = {}
    for name, is_here, why in rows:
        if not is_here:
            reasons.setdefault(why, []).append(name)
    code = lambda names: ", ".join(f"<code>{html.escape(name)}</code>" for name in names)
    lines = [f"<tr><td>here</td><td>{len(here)}</td><td>{code(here)}</td></tr>"]
    for why, missing in reasons.items():
        lines.append(
            f"<tr><td>not here: {html.escape(why)}</td><td>{len(missing)}</td><td>{code(missing)}</td></tr>"
        )
    return f"<table><thead><tr><th></th><th>{what}</th><th></th></tr></thead><tbody>{''.join(lines)}</tbody></table>"
