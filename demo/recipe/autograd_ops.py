"""The model's operations with hand-written gradients: matrix products in a compute dtype (bfloat16
or float32), everything else and all master weights in float32.
"""

import torch

ROW_MULTIPLE = 32
HEAD_CHUNK = 1024


class Linear(torch.autograd.Function):
    """y = x W^T. x [n, in], weight [out, in] -> [n, out] in the compute dtype."""

    @staticmethod
    def forward(ctx, x, weight, dtype):
        x, weight = x.to(dtype), weight.to(dtype)
        ctx.save_for_backward(x, weight)
        return x @ weight.t()

    @staticmethod
    def backward(ctx, dy):
        x, weight = ctx.saved_tensors
        dy = dy.to(x.dtype).contiguous()
        return dy @ weight, (dy.t() @ x).float(), None


class RmsNorm(torch.autograd.Function):
    """Float32 inside, compute dtype out."""

    @staticmethod
    def forward(ctx, x, gain, epsilon, dtype):
        x = x.float()
        inverse = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon)
        normed = x * inverse
        ctx.save_for_backward(normed, inverse, gain)
        return (normed * gain).to(dtype)

    @staticmethod
    def backward(ctx, dy):
        normed, inverse, gain = ctx.saved_tensors
        dy = dy.float()
        dgain = (dy * normed).reshape(-1, gain.numel()).sum(0)
        g = dy * gain
        dx = inverse * (g - normed * (g * normed).mean(-1, keepdim=True))
        return dx, dgain, None, None


class Attention(torch.autograd.Function):
    """q [batch * kv, group * length, d], k and v [batch * kv, length, d],
    mask [group * length, length] (0 or -inf)."""

    @staticmethod
    def forward(ctx, q, k, v, mask, scale):
        scores = torch.bmm(q, k.transpose(1, 2))
        p = torch.softmax(torch.add(mask, scores, alpha=scale), -1).to(q.dtype)
        out = torch.bmm(p, v)
        ctx.save_for_backward(q, k, v, p, out)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx, dout):
        q, k, v, p, out = ctx.saved_tensors
        dout = dout.contiguous()
        dv = torch.bmm(p.transpose(1, 2), dout)
        # The sum over j of dp_ij p_ij, without another product of matrices.
        row_sums = (dout.float() * out.float()).sum(-1, keepdim=True).to(q.dtype)
        dscores = torch.bmm(dout, v.transpose(1, 2)).sub_(row_sums).mul_(p)
        dq = torch.bmm(dscores, k).mul_(ctx.scale)
        dk = torch.bmm(dscores.transpose(1, 2), q).mul_(ctx.scale)
        return dq, dk, dv, None, None


def expert_ranges(expert_of, n_experts):
    """(expert, first row, end, padded end) of each used expert, rows sorted by expert.

    Padding rounds row counts up, so that the matrix library meets few distinct shapes. The padded
    rows belong to the next expert, which overwrites them: experts must be done in order.
    """
    ends = torch.cumsum(torch.bincount(expert_of, minlength=n_experts), 0).tolist()
    ranges = []
    first = 0
    for expert, end in enumerate(ends):
        if end > first:
            padded = first + -(-(end - first) // ROW_MULTIPLE) * ROW_MULTIPLE
            ranges.append((expert, first, end, padded))
        first = end
    return ranges


class Experts(torch.autograd.Function):
    """SwiGLU experts: tokens sorted by expert, one matrix product an expert.

    x [n, d] compute dtype, w_gate_up [experts, 2 ff, d], w_down [experts, d, ff],
    chosen and shares [n, k] -> [n, d] float32.
    """

    @staticmethod
    def forward(ctx, x, w_gate_up, w_down, chosen, shares):
        n_tokens, k = chosen.shape
        n_experts, ff2, d = w_gate_up.shape
        ff = ff2 // 2
        n = n_tokens * k
        expert_of = chosen.reshape(-1)
        order = torch.argsort(expert_of)
        token = order // k
        inverse = torch.empty_like(order)
        inverse[order] = torch.arange(n)
        ranges = expert_ranges(expert_of, n_experts)

        token_padded = torch.cat([token, token.new_zeros(ROW_MULTIPLE)])
        rows = x.index_select(0, token_padded)
        w_gate_up, w_down = w_gate_up.to(x.dtype), w_down.to(x.dtype)
        hidden = rows.new_empty(n + ROW_MULTIPLE, ff2)
        for expert, first, _, padded in ranges:
            torch.mm(rows[first:padded], w_gate_up[expert].t(), out=hidden[first:padded])
        gate, up = hidden[:n, :ff].float(), hidden[:n, ff:].float()
        share = shares.reshape(-1).index_select(0, order)[:, None]
        sigmoid = torch.sigmoid(gate)
        activation = (gate * sigmoid).mul_(up)
        weighted = rows.new_zeros(n + ROW_MULTIPLE, ff)
        weighted[:n].copy_(activation * share)
        out = rows.new_empty(n + ROW_MULTIPLE, d)
        for expert, first, _, padded in ranges:
            torch.mm(weighted[first:padded], w_down[expert].t(), out=out[first:padded])

        ctx.save_for_backward(rows, w_gate_up, w_down, gate, up, sigmoid, activation, weighted)
        ctx.share, ctx.token_padded, ctx.inverse = share, token_padded, inverse
        ctx.ranges, ctx.sizes = ranges, (n_tokens, k, n_experts, ff, d)
        return out.index_select(0, inverse).view(n_tokens, k, d).sum(1, dtype=torch.float32)

    @staticmethod
    def backward(ctx, dout):
        rows, w_gate_up, w_down, gate, up, sigmoid, activation, weighted = ctx.saved_tensors
        n_tokens, k, n_experts, ff, d = ctx.sizes
        n = n_tokens * k
        dy = dout.to(rows.dtype).index_select(0, ctx.token_padded)
        dactivation = dy.new_empty(n + ROW_MULTIPLE, ff)
        dw_down = torch.zeros(n_experts, d, ff, dtype=rows.dtype)
        for expert, first, end, padded in ctx.ranges:
            torch.mm(dy[first:padded], w_down[expert], out=dactivation[first:padded])
            torch.mm(dy[first:end].t(), weighted[first:end], out=dw_down[expert])
        dactivation = dactivation[:n].float()
        dshare = (dactivation * activation).sum(1)
        dactivation.mul_(ctx.share)

        silu = gate * sigmoid
        dhidden = dy.new_zeros(n + ROW_MULTIPLE, 2 * ff)
        dhidden[:n, ff:] = dactivation * silu
        # silu' = s + g s - g s^2
        dhidden[:n, :ff] = dactivation.mul_(up).mul_(sigmoid.add(silu).sub_(silu * sigmoid))
        dw_gate_up = torch.zeros(n_experts, 2 * ff, d, dtype=rows.dtype)
        drows = dy  # no longer needed: its rows are replaced one expert after the other
        for expert, first, end, padded in ctx.ranges:
            torch.mm(dhidden[first:end].t(), rows[first:end], out=dw_gate_up[expert])
            torch.mm(dhidden[first:padded], w_gate_up[expert], out=drows[first:padded])
        dx = drows.index_select(0, ctx.inverse).view(n_tokens, k, d).sum(1, dtype=torch.float32)
        dshares = dshare.index_select(0, ctx.inverse).view(n_tokens, k)
        return dx, dw_gate_up.float(), dw_down.float(), None, dshares


class HeadCrossEntropy(torch.autograd.Function):
    """Tied head and mean cross entropy in chunks of tokens; gradients are made in the forward pass.

    hidden [n, d], embedding [n_vocab, d], targets [n].
    """

    @staticmethod
    def forward(ctx, hidden, embedding, targets, dtype):
        n = hidden.shape[0]
        rows, weight = hidden.to(dtype), embedding.to(dtype)
        dhidden, dembedding = torch.empty_like(rows), torch.zeros_like(embedding)
        total = 0.0
        for first in range(0, n, HEAD_CHUNK):
            x, target = rows[first : first + HEAD_CHUNK], targets[first : first + HEAD_CHUNK]
            logits = (x @ weight.t()).float()
            log_sum = torch.logsumexp(logits, 1)
            total += (log_sum - logits.gather(1, target[:, None])[:, 0]).sum().item()
            if ctx.needs_input_grad[0]:
                logits.sub_(log_sum[:, None]).exp_()
                logits.scatter_add_(1, target[:, None], torch.full((len(target), 1), -1.0))
                dlogits = logits.div_(n).to(dtype)
                dhidden[first : first + HEAD_CHUNK] = dlogits @ weight
                dembedding += (dlogits.t() @ x).float()
        ctx.save_for_backward(dhidden, dembedding)
        return torch.tensor(total / n)

    @staticmethod
    def backward(ctx, dloss):
        dhidden, dembedding = ctx.saved_tensors
        return dhidden.float() * dloss, dembedding * dloss, None, None
