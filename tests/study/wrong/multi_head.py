"""Wrong multi-head attention, as students hand it in."""

SPLIT = ("            part = part.view(batch, seq, self.num_heads, self.head_dim)\n"
         "            parts.append(part.transpose(1, 2))\n")

WRONG = [
    (SPLIT, "            parts.append(part.reshape(batch, self.num_heads, seq, self.head_dim))\n",
     "pieces of other tokens"),
    ("part.transpose(1, 2)", "part", "heads and tokens are not swapped"),
    ("        query, key, value = projected.chunk(3, dim=-1)\n",
     "        query, key, value = projected.view(batch, seq, self.num_heads, 3, self.head_dim)"
     ".transpose(2, 3).flatten(3).unbind(2)\n", "split as (heads, 3, head_dim)"),
    ("projected.chunk(3, dim=-1)", "(projected[..., i::3] for i in range(3))",
     "split as (heads, head_dim, 3)"),
    ("            part = part.view(batch, seq, self.num_heads, self.head_dim)\n",
     "            part = part.view(batch, seq, self.head_dim, self.num_heads).transpose(2, 3)\n",
     "every num_heads-th column"),
    ("query, key, value = projected", "key, query, value = projected", "order is key, query, value"),
    ("query, key, value = projected", "value, key, query = projected", "order is value, key, query"),
    ("torch.stack(parts)", "parts", None),
    ("torch.stack(parts)", "torch.stack(parts, dim=1)", "dimensions are in the order"),
    ("torch.stack(parts)", "torch.cat(parts)", "has shape (3, 2, 3, 2), expected (3, 1, 2, 3, 2)"),
    ("self.query_key_value(hidden_states)", "hidden_states @ self.query_key_value.weight.T",
     "without the bias"),
    ("        out = out.transpose(1, 2)\n", "", "mixes tokens in the output"),
    ("        out = out.transpose(1, 2)\n", "        out = out.permute(0, 2, 3, 1)\n", "interleaved"),
    ("        return out.reshape(batch, seq, hidden)\n", "        return out\n", "only the shape is wrong"),
    ("out.reshape(batch, seq, hidden)", "out.view(batch, seq, hidden)", "view size is not compatible"),
    ("attention(query, key, value, mask, p)", "attention(query, key, value, None, p)",
     "not passed on"),
    ("attention(query, key, value, mask, p)", "attention(query, key, value, p)", "TypeError"),
    ("attention(query, key, value, mask, p)",
     "attention(query, key, value, None if mask is None else ~mask, p)", "passed on inverted"),
    ("self.dropout if self.training else 0.0", "self.dropout", "stays on in eval mode"),
    ("        p = self.dropout if self.training else 0.0\n", "        p = 0.0\n", "dropout is left out"),
    ("        return out.reshape", "        return nn.functional.dropout(out, p).reshape",
     "share of weights that are dropped"),
    ("        batch, seq, hidden = hidden_states.shape\n",
     "        batch, seq, hidden = hidden_states.shape\n"
     "        hidden_states = nn.functional.dropout(hidden_states, self.dropout)\n",
     "weights in eval mode"),
    ("attention(query, key, value, mask, p)", "attention(key, query, value, mask, p)",
     "queries and keys are swapped"),
    ("attention(query, key, value, mask, p)", "attention(query, key, value, mask, p) + hidden_states"
     ".view(batch, seq, self.num_heads, self.head_dim).transpose(1, 2)", "output: "),
    ("self.split_heads(hidden_states)\n        p", "self.split_heads(hidden_states).detach()\n        p",
     "is something detached"),
    ("        query, key, value = self.split_heads(hidden_states)\n        p",
     "        query, key, value = self.split_heads(hidden_states)\n"
     "        query = query.mean(1, keepdim=True).expand_as(query)\n        p", "output: "),
    ("        out = attention(query, key, value, mask, p)\n",
     "        query, key, value = query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1)\n"
     "        out = attention(query[None], key[None], value[None], None, p)\n"
     "        out = out[0].unflatten(0, (batch, self.num_heads))\n", "not passed on"),
    ("    def weights(", "    def averages(", "no attribute 'weights'"),
    ("attention(query, key, value, mask, p)",
     "nn.functional.dropout(attention(query, key, value, mask), p)", "applied to the output"),
    ("attention(query, key, value, mask, p)",
     "attention(query, key, nn.functional.dropout(value, p), mask)", "applied to the values"),
]
