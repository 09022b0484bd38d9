import torch


def project_paper(gradients: torch.Tensor) -> torch.Tensor:
    projected = []
    for i in range(len(gradients)):
        new = gradients[i].clone()
        for j in range(len(gradients)):
            square = gradients[j] @ gradients[j]
            if j == i or square == 0:
                continue
            new = new - gradients[i] @ gradients[j] / square * gradients[j]
        projected.append(new)
    return sum(projected)
