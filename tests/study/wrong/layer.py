"""Wrong layers, as students hand them in."""

FIRST = "self.attention_layer_norm(x + self.dropout(a))"
SECOND = "self.output_layer_norm(h + self.dropout(f))"
BODY = f"""        h = {FIRST}
        f = self.intermediate_dense(h)
        f = self.activation(f)
        f = self.output_dense(f)
        return {SECOND}
"""


def body(first: str, second: str) -> tuple[str, str]:
    return BODY, BODY.replace(FIRST, first).replace(SECOND, second)


WRONG = [
    ("x + self.dropout(a)", "self.dropout(a)", "without the residual around attention"),
    ("h + self.dropout(f)", "self.dropout(f)", "without the residual around the feed-forward"),
    (*body("self.attention_layer_norm(self.dropout(a))", "self.output_layer_norm(self.dropout(f))"),
     "without both residuals"),
    (*body("x + self.attention_layer_norm(self.dropout(a))",
           "h + self.output_layer_norm(self.dropout(f))"), "residual is added after LayerNorm"),
    (FIRST, "x + self.attention_layer_norm(self.dropout(a))", "x is added after the first"),
    (SECOND, "h + self.output_layer_norm(self.dropout(f))", "h is added after the second"),
    (BODY, "        h = x + self.dropout(self.attention_dense(self.self_attention("
     "self.attention_layer_norm(x), mask)))\n"
     "        f = self.activation(self.intermediate_dense(self.output_layer_norm(h)))\n"
     "        return h + self.dropout(self.output_dense(f))\n", "first sum into"),
    ("        a = self.self_attention(x, mask)\n        a = self.attention_dense(a)\n" + BODY,
     "        h = x + self.dropout(self.attention_dense(self.self_attention("
     "self.attention_layer_norm(x), mask)))\n"
     "        f = self.activation(self.intermediate_dense(self.output_layer_norm(h)))\n"
     "        return h + self.dropout(self.output_dense(f))\n", "from pre-norm"),
    (*body("self.attention_layer_norm(self.dropout(x + a))",
           "self.output_layer_norm(self.dropout(h + f))"), "dropout is applied to the sums"),
    (*body("self.dropout(self.attention_layer_norm(x + a))",
           "self.dropout(self.output_layer_norm(h + f))"), "to the outputs of LayerNorm"),
    (*body("self.attention_layer_norm(x + a)", "self.output_layer_norm(h + f)"),
     "without dropout in both"),
    ("x + self.dropout(a)", "x + a", "without dropout in the first"),
    ("h + self.dropout(f)", "h + f", "without dropout in the second"),
    ("self.dropout(a)", "nn.functional.dropout(a, self.dropout.p)", "first sum into"),
    ("h + self.dropout(f)", "x + self.dropout(f)", "second residual is x"),
    ("self.intermediate_dense(h)", "self.intermediate_dense(x)", "feed-forward part gets x"),
    (FIRST, "x + self.dropout(a)", "without the first LayerNorm"),
    (SECOND, "h + self.dropout(f)", "without the last LayerNorm"),
    ("self.output_layer_norm(h", "self.attention_layer_norm(h", "used twice"),
    ("        a = self.attention_dense(a)\n", "", "without W_o"),
    ("        f = self.activation(f)\n", "", "without the activation"),
    ("self.activation(f)", "nn.functional.gelu(f)", "always GELU"),
    ("        f = self.output_dense(f)\n", "        f = self.activation(self.output_dense(f))\n",
     "after W_2 too"),
    ("self.self_attention(x, mask)", "self.self_attention(x)", "mask is not passed on"),
    ("self.self_attention(x, mask)", "self.self_attention(x, ~mask if mask is not None else None)",
     "inverted"),
    ("self.self_attention(x, mask)", "self.self_attention(x, mask, self.dropout.p)", "TypeError"),
    ("x + self.dropout(a)", "x.add_(self.dropout(a))", "changed its input `hidden_states`"),
    ("        x = hidden_states\n", "        x = hidden_states.detach()\n", "gradient of hidden_states"),
    ("return self.output", "self.output", "is a `return` missing"),
    ("        f = self.intermediate_dense(h)\n", "        f = self.intermediate_dense(self.dropout(h))\n",
     "share of 0 in h into intermediate_dense"),
    ("        f = self.activation(f)\n", "        f = self.dropout(self.activation(f))\n",
     "share of 0 in act(W_1 · h)"),
    ("        a = self.attention_dense(a)\n", "        a = self.dropout(self.attention_dense(a))\n",
     "share of 0 in what is added to x: yours 0.4"),
    ("        self.activation = ACTIVATIONS[activation]\n", "        self.activation = nn.ReLU()\n",
     "act(W_1 · h)"),
    ("num_heads, attention_dropout)", "num_heads, dropout)", "dropout of self_attention: yours 0.5"),
    ("self.self_attention(x, mask)", "self.self_attention(x, None if self.training else mask)",
     "output at real tokens in training mode"),
]
