"""What each error code means, why it comes up and what to do: the pages of `dsv4c explain CODE`.

Loads nothing heavy; `dsv4c.errors.CODES` has the same keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final


@dataclass(frozen=True, slots=True)
class Page:
    """Why an error comes up, and what to do about it."""

    cause: str
    remedy: str


PAGES: Final = MappingProxyType(
    {
        "DSV101": Page(
            "A flag, an argument of the Python API or a DSV4C_ variable has a value outside its "
            "range, or a name that the plan does not know.",
            "Take one of the values under `expected`; `dsv4c COMMAND --help` lists the flags, "
            "`dsv4c env` the variables.",
        ),
        "DSV102": Page(
            "The folder of -o exists and holds something that dsv4c did not make; it is left alone.",
            "Choose another path, or remove the folder yourself. An earlier plan is replaced.",
        ),
        "DSV201": Page(
            "config.json is missing or is no JSON object, or a field that the architecture needs "
            "is missing or has another type.",
            "Take config.json from the same repository as the weights; `where` names the field.",
        ),
        "DSV202": Page(
            "Two fields of config.json exclude each other, for instance a list with one entry per "
            "layer that has another length than num_hidden_layers.",
            "Correct the field under `where`; released configurations load unchanged.",
        ),
        "DSV203": Page(
            "config.json belongs to another architecture. dsv4c compiles DeepSeek-V4 only.",
            "Compile a checkpoint with the architecture DeepseekV4ForCausalLM.",
        ),
        "DSV211": Page(
            "A shard or the index does not parse, is shorter than its header says, or is missing: "
            "most often a download that did not finish.",
            "Fetch the file under `where` again and compare its size or hash with the source.",
        ),
        "DSV212": Page(
            "The tensors and the configuration disagree: a name is missing, unknown or there "
            "twice, or a tensor has another shape or dtype than the configuration asks for.",
            "Check that config.json and weights are of one model and size. Official, ModelOpt and "
            "transformers names are known.",
        ),
        "DSV213": Page(
            "A stored value breaks its number format: a NaN or infinity in a weight, a negative "
            "or overflowing scale, a token table that names no expert.",
            "The file is damaged or was quantised wrongly: fetch or quantise it again.",
        ),
        "DSV221": Page(
            "IR text does not follow the grammar: `where` has the line, `expected` the form.",
            "Compare the line with `dsv4c inspect PLAN ir`. Each value has a type, each body a "
            "closing brace.",
        ),
        "DSV222": Page(
            "The graph breaks a rule of its stage: a shape that its op does not give, a value used "
            "before it is made, a state read after it was overwritten, values that share memory.",
            "In an edited IR file, correct the node under `where`. Otherwise a pass is wrong: "
            "please report it with the ir/ folder of the plan.",
        ),
        "DSV231": Page(
            "The folder is no plan, or a file of it is missing, malformed or a link, or manifest "
            "and graph disagree. A compile that was killed leaves the old plan or none.",
            "Compile again. For a checkpoint folder, compile it first.",
        ),
        "DSV232": Page(
            "A file of the plan has another SHA-256 than manifest.json says: it was edited or "
            "damaged on the way.",
            "Copy or compile the plan again. To change a plan on purpose, edit its IR and use "
            "`dsv4c compile --from FILE.ir`, or edit a kernel and use `--kernels`.",
        ),
        "DSV233": Page(
            "The plan is of another schema version, or of a GPU architecture that is not the one "
            "here: kernels for sm_90a do not run on sm_100a.",
            "Compile the checkpoint again with this version and the right --target.",
        ),
        "DSV241": Page(
            "There are no token ids, or one is outside the vocabulary.",
            "Use the tokenizer of the plan's model; ids go from 0 to vocab_size - 1.",
        ),
        "DSV242": Page(
            "Prompt and new tokens are more than the session was opened for, or the session's "
            "limit is beyond max_position_embeddings.",
            "Open the session with a larger max_tokens, or shorten the text.",
        ),
        "DSV243": Page(
            "A slot was used that is not open, or every slot is in use.",
            "Use what session.open() returned, close sequences that ended, or open the session "
            "with a larger max_sequences.",
        ),
        "DSV301": Page(
            "A dim, a format or an option is outside what the compiler supports; it does not "
            "round or pad silently.",
            "`expected` says what would be supported; another --kv-cache or --dtype may help.",
        ),
        "DSV302": Page(
            "There is no code generation for this target.",
            "Use cpu, sm_90a (H100, H200) or sm_100a (Blackwell).",
        ),
        "DSV303": Page(
            "No template takes a node on this target; each one that was considered says why.",
            "`dsv4c explain PLAN NODE` lists the templates and their reasons.",
        ),
        "DSV401": Page(
            "CuTe DSL or ptxas refused a generated kernel, or --frozen forbids to compile it.",
            "The source is kept under `where`; `dsv4c cache why NAME` tells why no cached kernel "
            "was taken. A kernel that was edited by hand needs correcting, any other is a bug.",
        ),
        "DSV402": Page(
            "The objects do not link: gcc or a library of the pinned packages is missing.",
            "Install gcc and the extra `dsv4c[compile]`; `dsv4c env` shows what is found.",
        ),
        "DSV501": Page(
            "A node's result is further from its fp64 reference, or from the other plan's result, "
            "than rounding explains. The first such node is named; later ones may only follow.",
            "`dsv4c explain PLAN NODE` shows where the node comes from, `dsv4c repro PLAN NODE` "
            "cuts it out with its inputs.",
        ),
        "DSV502": Page(
            "A node made NaN or infinity from finite operands where its op does not.",
            "The operands are saved under `where`; `dsv4c repro` runs the node alone. Look at the "
            "weights and scales that it reads.",
        ),
        "DSV601": Page(
            "There is no GPU, no driver, or the driver refuses the device.",
            "Run on the GPU machine, or compile with --target cpu.",
        ),
        "DSV602": Page(
            "Weights, states and the arena together are larger than the free memory. This is known "
            "before anything is allocated; `found` has the parts.",
            "Lower max_sequences or max_tokens, or free memory of other processes.",
        ),
        "DSV603": Page(
            "The disk is full, or a file or folder cannot be written.",
            "Free space, or choose another place for the output or DSV4C_CACHE_DIR.",
        ),
        "DSV604": Page(
            "The plan's native library cannot be opened: apache-tvm-ffi or libcuda.so.1 is "
            "missing, or a kernel is not in it.",
            "Install the NVIDIA driver and apache-tvm-ffi, or compile the plan again.",
        ),
        "DSV901": Page(
            "A rule that dsv4c sets itself was broken: a bug, not a mistake of yours.",
            "Please report it with the command and the saved traceback.",
        ),
    }
)
