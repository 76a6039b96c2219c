"""`kubectl wenxin`: what the resources' status says, in lines for people. Reads with the caller's own rights."""
