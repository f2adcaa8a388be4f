"""When a message was first tried: counted before it is sent, so that a try that was cut off is known of"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    with op.batch_alter_table("messages") as messages:
        messages.add_column(sa.Column("tried_at", sa.DateTime(timezone=True), nullable=True))
    # Before, a try was counted after it: whoever looks for what has arrived looks as far back as can be.
    op.execute("UPDATE messages SET tried_at = created_at WHERE tries > 0")
