"""Wrong bodies of each exercise, as replacements in its functions. The planted faults of tests/mutants.py that lie in
them are added; together there are three of each, and its tests must catch every one."""

WRONG = {
    "word-pieces": [
        (".ids[1:-1]", ".ids"),  # [CLS] and [SEP] in every word
        ("[:most]", "[:1]"),  # one piece a word
    ],
    "embeddings": [
        ("x = x * self.scale", "pass"),
        ("self.token_type.weight[0] if", "self.token_type.weight[1] if"),
        ("else self.token_type(token_type_ids)", "else self.token_type(1 - token_type_ids)"),
    ],
    "sinusoids": [
        ("angle = position / 10000", "angle = position / 1000"),
        ("dtype=torch.float64", "dtype=torch.float32"),
        ("table[:, 0::2] = angle.sin()\n    table[:, 1::2] = angle.cos()[:, : width // 2]",
         "table = torch.cat([angle.sin(), angle.cos()[:, : width // 2]], dim=1)"),  # two halves, not interleaved
        (', device="cpu"', ""),
    ],
    "layer-norm": [
        ("self.bias, self.epsilon", "self.bias, 1e-5"),
        ("self.weight, self.bias", "self.weight, None"),
        ("return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon)",
         "return (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + self.epsilon) * self.weight + self.bias"),
    ],
    "attention": [],
    "heads": [
        ("x = x.view(x.size(0), x.size(1), heads, x.size(2) // heads)  # B,S,D -> B,S,H,W\n"
         "    return x.transpose(1, 2)",
         "return x.reshape(x.size(0), heads, x.size(1), x.size(2) // heads)"),  # cut without a transposition
        ("return x.transpose(1, 2).flatten(2)", "return x.flatten(1).view(x.size(0), x.size(2), -1)"),
        ("heads, x.size(2) // heads)  # B,S,D -> B,S,H,W\n    return x.transpose(1, 2)",
         "x.size(2) // heads, heads)  # B,S,D -> B,S,H,W\n    return x.permute(0, 3, 1, 2)"),  # each H-th number
    ],
    "block": [
        ("return x if self.norm_first else self.norm(x)", "return x"),
        ("return self.norm(x) if self.norm_first else x", "return x"),
        ("x, y), maps", "x, y), None"),
        ("x = self.attention_residual(x, y)", "x = y"),
    ],
    "model-heads": [
        ("x[:, 0]", "x.mean(dim=1)"),
        ("self.activation(self.pooler(x[:, 0]))", "self.pooler(x[:, 0])"),
        ("dropout(x, self.dropout, self.training)", "dropout(x, self.dropout)"),
        ("dropout(pooled, self.dropout, self.training)", "pooled"),
    ],
    "padding": [
        ("row[:length]", "row[len(row) - length :]"),  # in front of the row
        ("lengths.max(), *flat", "lengths.max() + 1, *flat"),
        ("default_rng([seed, epoch])", "default_rng(seed)"),
        ("batches[i] for i in generator.permutation(len(batches))", "batches[i] for i in range(len(batches))"),
    ],
    "units": [
        ("start_end.transpose(1, 2).flatten(0, 1)", "start_end.flatten(0, 1)"),
        (".index_select(0, batch.counted)  # B,S,2", "  # B,S,2"),
    ],
    "cross-entropy": [
        ('reduction="sum"', 'reduction="mean"'),
        ("F.cross_entropy(logits,", "F.cross_entropy(logits.softmax(-1),"),
        ("F.cross_entropy(logits, labels", "F.cross_entropy(logits, labels.clamp(min=0)"),
    ],
    "soft-targets": [],
    "hidden-states": [
        (".sum(dim=1) / real.sum(dim=1)).sum()", ".sum(dim=1) / real.size(1)).sum()"),
        (".square().mean(dim=-1)", ".square().sum(dim=-1)"),
        ("/ real.sum(dim=1)).sum()", "/ real.sum(dim=1)).mean()"),
    ],
    "relations": [
        ("terms.sum(dim=-1).mean(dim=1)", "terms.mean(dim=-1).mean(dim=1)"),
    ],
    "label-order": [
        ("teacher.index(label) for label in student", "student.index(label) for label in teacher"),  # the inverse
        ("if set(teacher) != set(student):", "if len(teacher) != len(student):"),
        ("if set(teacher) != set(student):", "if not set(student) <= set(teacher):"),  # a teacher that knows more
    ],
    "word-labels": [],
    "span-decoding": [
        ("-np.inf", "0.0"),  # beyond the last piece there are spans too
        ("(first + beyond)", "beyond"),
        ("np.argsort(-flat[best]", "np.argsort(flat[best]"),
    ],
    "safetensors-header": [
        ("(-len(header) % 8)", "(len(header) % 8)"),
        ('end + tensor.numel() * tensor.dtype.itemsize', "end + tensor.numel() * 4"),
        ("rank[tensors[name].dtype], name", "name"),
        (', separators=(",", ":")', ""),
    ],
    "int8": [
        ("steps = 2**bits - 1", "steps = 2**bits"),
        ("* step * scale.double()", "* step"),
        ("low = min(0.0, float(x.min()))", "low = float(x.min())"),  # 0 falls between two steps
    ],
    "schedule": [
        ("rising = (step + 1)", "rising = step"),
        ("(steps - step) / max(1, steps - warmup)", "(steps - step) / steps"),
        ("(steps - step) /", "(steps - step - 1) /"),
    ],
}  # fmt: skip
