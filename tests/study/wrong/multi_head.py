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
    ("torch.stack(parts)", "parts", None),
    ("torch.stack(parts)", "torch.stack(parts, dim=1)", "dimensions are in the order"),
    ("torch.stack(parts)", "torch.cat(parts)", "has shape (3, 2, 3, 2), expected (3, 1, 2, 3, 2)"),
    ("        return out.reshape(batch, seq, hidden)\n", "        return out\n", "only the shape is wrong"),
    ("out.reshape(batch, seq, hidden)", "out.view(batch, seq, hidden)", "view size is not compatible"),
    ("attention(query, key, value, mask, p)", "attention(query, key, value, p)", "TypeError"),
    ("        return out.reshape", "        return nn.functional.dropout(out, p).reshape",
     "share of weights that are dropped"),
    ("        batch, seq, hidden = hidden_states.shape\n",
     "        batch, seq, hidden = hidden_states.shape\n"
     "        hidden_states = nn.functional.dropout(hidden_states, self.dropout)\n",
     "weights in eval mode"),
    ("attention(query, key, value, mask, p)", "attention(query, key, value, mask, p) + hidden_states"
     ".view(batch, seq, self.num_heads, self.head_dim).transpose(1, 2)", "output: "),
    ("self.split_heads(hidden_states)\n        p", "self.split_heads(hidden_states).detach()\n        p",
     "is something detached"),
    ("        query, key, value = self.split_heads(hidden_states)\n        p",
     "        query, key, value = self.split_heads(hidden_states)\n"
     "        query = query.mean(1, keepdim=True).expand_as(query)\n        p", "output: "),
    ("    def weights(", "    def averages(", "no attribute 'weights'"),
]
