"""One step of training: a gradient for each task, surgery, AdamW.

    step          SurgeryTrainer: where the tasks' gradients meet
    optimizing    parameter groups, clipping, the scheduled step, checks of gradients
    final_layers  heads trained on cached outputs of a frozen encoder
    all_at_once   on a CPU: all tasks through the layers in one pass
    cuda_graphs   on a GPU: a task's forward and backward launched as one graph

Imports model, data, system and tasks.
"""
