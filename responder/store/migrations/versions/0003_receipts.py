"""Receipts of alerts, tokens of senders, and an incident's wish to be looked at anew"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "receipts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("times", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("alert", sa.JSON(), nullable=False),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("firing", sa.Boolean(), nullable=False),
        sa.Column("truncated", sa.Integer(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("went", sa.String(), nullable=False),
        sa.Column("why", sa.String(), nullable=False),
        sa.Column("incident_id", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["incident_id"], ["incidents.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("key"),
    )
    op.create_index(op.f("ix_receipts_due_at"), "receipts", ["due_at"], unique=False)
    op.create_index(op.f("ix_receipts_fingerprint"), "receipts", ["fingerprint"], unique=False)
    op.create_index(op.f("ix_receipts_incident_id"), "receipts", ["incident_id"], unique=False)
    with op.batch_alter_table("incidents") as incidents:
        incidents.add_column(sa.Column("anew", sa.String(), nullable=True))
    with op.batch_alter_table("tokens") as tokens:
        tokens.add_column(sa.Column("sends_alerts", sa.Boolean(), nullable=False, server_default=sa.false()))
