"""kd_scratch: knowledge distillation of BERT-family models, from scratch and in plain sight."""
